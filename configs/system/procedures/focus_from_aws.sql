/*
procedure: focus_from_aws
description: The rows of AWS exports (FOCUS 1.0 to 1.2) as rows of the FOCUS table, one for one.
output: focus_costs
rows: same
totals: [BilledCost, ContractedCost, EffectiveCost, ListCost]
currency: BillingCurrency
columns:
  x_CostCategories: json
  x_Discounts: json
  x_Operation: text
  x_ServiceCode: text
  x_UsageType: text
*/
-- Every row is taken: a refund, a credit or a negative cost is a row like any other. Enumerations and
-- periods stay as AWS writes them; AWS' period ends are exclusive already, as FOCUS wants them.
WITH source AS (
  SELECT
    *
  FROM aws_focus
  WHERE x_org_slug = @org_slug
    AND x_pipeline_id = @pipeline_id
    AND x_credential_id = @credential_id
    AND x_pipeline_run_date IN UNNEST(@run_dates)
),
named AS (
  SELECT
    *,
    -- Whose service it is. Until 1.3 no column said so: the publisher of what is sold through the
    -- marketplace, else the provider. AWS' own rows name one of its companies as their publisher.
    CASE
      WHEN PublisherName IS NULL THEN ProviderName
      WHEN PublisherName LIKE 'Amazon Web Services%' THEN ProviderName
      ELSE PublisherName
    END AS x_seller
  FROM source
)
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
  InvoiceId,
  InvoiceIssuerName,
  ListCost,
  ListUnitPrice,
  PricingCategory,
  PricingCurrency,
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
  SkuMeter,
  SkuPriceDetails,
  SkuPriceId,
  SubAccountId,
  SubAccountName,
  SubAccountType,
  Tags,
  x_CostCategories,
  x_Discounts,
  x_Operation,
  x_ServiceCode,
  x_UsageType,
  'provider_export' AS x_cost_basis,
  -- The same row has the same id in every run and every delivery: what it is for, and how much. Rows
  -- that are alike in all of this share one. The digits of a decimal are those of this warehouse.
  TO_HEX(MD5(CONCAT(
    COALESCE(BillingAccountId, ''), '|',
    COALESCE(SubAccountId, ''), '|',
    COALESCE(InvoiceId, ''), '|',
    COALESCE(PublisherName, ''), '|',
    COALESCE(ServiceName, ''), '|',
    COALESCE(ResourceId, ''), '|',
    COALESCE(SkuPriceId, ''), '|',
    COALESCE(RegionId, ''), '|',
    COALESCE(AvailabilityZone, ''), '|',
    COALESCE(ChargeCategory, ''), '|',
    COALESCE(ChargeClass, ''), '|',
    COALESCE(ChargeDescription, ''), '|',
    COALESCE(CommitmentDiscountId, ''), '|',
    COALESCE(CommitmentDiscountStatus, ''), '|',
    COALESCE(CapacityReservationId, ''), '|',
    COALESCE(BillingCurrency, ''), '|',
    COALESCE(TO_JSON_STRING(Tags), ''), '|',
    COALESCE(x_Operation, ''), '|',
    COALESCE(x_UsageType, ''), '|',
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
