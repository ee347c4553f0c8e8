/*
procedure: focus_from_azure
description: The rows of Azure exports (FOCUS 1.0 to 1.2) as rows of the FOCUS table, one for one.
output: focus_costs
rows: same
totals: [BilledCost, ContractedCost, EffectiveCost, ListCost]
currency: BillingCurrency
columns:
  x_AmortizationClass: text
  x_BilledCostInUsd: decimal
  x_BillingExchangeRate: decimal
  x_CostCenter: text
  x_EffectiveCostInUsd: decimal
  x_InvoiceSectionName: text
  x_PublisherCategory: text
  x_ResourceGroupName: text
  x_SkuDetails: text
  x_SkuMeterCategory: text
*/
-- Every row is taken: a refund, a credit or a negative cost is a row like any other. Enumerations and
-- periods stay as Azure writes them; Azure's period ends are exclusive already, as FOCUS wants them.
WITH source AS (
  SELECT
    *
  FROM azure_focus
  WHERE x_org_slug = @org_slug
    AND x_pipeline_id = @pipeline_id
    AND x_credential_id = @credential_id
    AND x_pipeline_run_date IN UNNEST(@run_dates)
),
named AS (
  SELECT
    *,
    -- Whose service it is: the publisher of what is sold through the marketplace, which Azure marks,
    -- else the provider.
    CASE
      WHEN x_PublisherCategory = 'Vendor' THEN COALESCE(PublisherName, ProviderName)
      ELSE ProviderName
    END AS x_seller
  FROM source
)
-- Exports before 1.2 have three columns under names of their own.
SELECT
  x_pipeline_run_date AS _run_date,
  AllocatedMethodDetails,
  AllocatedMethodId,
  AllocatedResourceId,
  AllocatedResourceName,
  AllocatedTags,
  AvailabilityZone,
  BilledCost,
  BillingAccountId,
  BillingAccountName,
  BillingAccountType,
  BillingCurrency,
  BillingPeriodEnd,
  BillingPeriodStart,
  CapacityReservationId,
  CapacityReservationStatus,
  ChargeCategory,
  ChargeClass,
  ChargeDescription,
  ChargeFrequency,
  ChargePeriodEnd,
  ChargePeriodStart,
  CommitmentDiscountCategory,
  CommitmentDiscountId,
  CommitmentDiscountName,
  CommitmentDiscountQuantity,
  CommitmentDiscountStatus,
  CommitmentDiscountType,
  CommitmentDiscountUnit,
  CommitmentProgramEligibilityDetails,
  ConsumedQuantity,
  ConsumedUnit,
  ContractApplied,
  ContractedCost,
  ContractedUnitPrice,
  EffectiveCost,
  -- A host that the export does not show is, by the specification, the service's provider.
  COALESCE(HostProviderName, ServiceProviderName, x_seller) AS HostProviderName,
  InvoiceDetailId,
  COALESCE(InvoiceId, x_InvoiceId) AS InvoiceId,
  InvoiceIssuerName,
  ListCost,
  ListUnitPrice,
  PricingCategory,
  COALESCE(PricingCurrency, x_PricingCurrency) AS PricingCurrency,
  PricingCurrencyContractedUnitPrice,
  PricingCurrencyEffectiveCost,
  PricingCurrencyListUnitPrice,
  PricingQuantity,
  PricingUnit,
  ProviderName,
  PublisherName,
  RegionId,
  RegionName,
  ResourceId,
  ResourceName,
  ResourceType,
  ServiceCategory,
  ServiceName,
  COALESCE(ServiceProviderName, x_seller) AS ServiceProviderName,
  ServiceSubcategory,
  SkuId,
  COALESCE(SkuMeter, x_SkuMeterName) AS SkuMeter,
  SkuPriceDetails,
  SkuPriceId,
  SubAccountId,
  SubAccountName,
  SubAccountType,
  Tags,
  x_AmortizationClass,
  x_BilledCostInUsd,
  x_BillingExchangeRate,
  x_CostCenter,
  x_EffectiveCostInUsd,
  x_InvoiceSectionName,
  x_PublisherCategory,
  x_ResourceGroupName,
  x_SkuDetails,
  x_SkuMeterCategory,
  'provider_export' AS x_cost_basis,
  -- The same row has the same id in every run and every delivery: what it is for, and how much. Rows
  -- that are alike in all of this share one. The digits of a decimal are those of this warehouse.
  TO_HEX(MD5(CONCAT(
    COALESCE(BillingAccountId, ''), '|',
    COALESCE(SubAccountId, ''), '|',
    COALESCE(x_InvoiceSectionName, ''), '|',
    COALESCE(PublisherName, ''), '|',
    COALESCE(ServiceName, ''), '|',
    COALESCE(ResourceId, ''), '|',
    COALESCE(SkuId, ''), '|',
    COALESCE(SkuPriceId, ''), '|',
    COALESCE(x_SkuMeterId, ''), '|',
    COALESCE(x_SkuOrderId, ''), '|',
    COALESCE(RegionId, ''), '|',
    COALESCE(ChargeCategory, ''), '|',
    COALESCE(ChargeClass, ''), '|',
    COALESCE(ChargeFrequency, ''), '|',
    COALESCE(ChargeDescription, ''), '|',
    COALESCE(PricingCategory, ''), '|',
    COALESCE(CommitmentDiscountId, ''), '|',
    COALESCE(CommitmentDiscountStatus, ''), '|',
    COALESCE(BillingCurrency, ''), '|',
    COALESCE(TO_JSON_STRING(Tags), ''), '|',
    COALESCE(CAST(UNIX_MICROS(BillingPeriodStart) AS STRING), ''), '|',
    COALESCE(CAST(UNIX_MICROS(ChargePeriodStart) AS STRING), ''), '|',
    COALESCE(CAST(UNIX_MICROS(ChargePeriodEnd) AS STRING), ''), '|',
    COALESCE(CAST(BilledCost AS STRING), ''), '|',
    COALESCE(CAST(EffectiveCost AS STRING), ''), '|',
    COALESCE(CAST(ListCost AS STRING), ''), '|',
    COALESCE(CAST(PricingQuantity AS STRING), '')
  ))) AS x_row_id,
  x_credential_id AS x_source_credential_id,
  x_source_file,
  x_pipeline_id AS x_source_pipeline_id
FROM named
