/*
procedure: focus_from_oci
description: The rows of Oracle's reports (FOCUS 1.0 preview) as rows of the FOCUS table, each counted once.
output: focus_costs
rows: same
totals: [BilledCost, ContractedCost, EffectiveCost, ListCost]
currency: BillingCurrency
columns:
  x_ChargeSubcategory: text
  x_oci_BackReferenceNumber: text
  x_oci_CompartmentId: text
  x_oci_CompartmentName: text
  x_oci_OverageFlag: text
  x_oci_ReferenceNumber: text
  x_deliveries: integer
*/
-- Every row is taken: a refund, a credit or a negative cost is a row like any other, and so is what corrects
-- an earlier row. A row of one reference number that the files of a day have twice, the same to the last
-- digit, is one charge: x_deliveries says how often it came. Oracle delivers no contracted cost, and none
-- is made up. Its period ends are exclusive already, as FOCUS wants them.
WITH source AS (
  SELECT
    *
  FROM (
    SELECT
      *,
      COUNT(*) OVER (
        PARTITION BY
          x_pipeline_run_date,
          oci_ReferenceNumber,
          oci_BackReferenceNumber,
          ServiceName,
          ResourceId,
          UNIX_MICROS(ChargePeriodStart),
          BillingCurrency,
          BilledCost,
          EffectiveCost,
          ListCost,
          PricingQuantity
      ) AS alike,
      ROW_NUMBER() OVER (
        PARTITION BY
          x_pipeline_run_date,
          oci_ReferenceNumber,
          oci_BackReferenceNumber,
          ServiceName,
          ResourceId,
          UNIX_MICROS(ChargePeriodStart),
          BillingCurrency,
          BilledCost,
          EffectiveCost,
          ListCost,
          PricingQuantity
        ORDER BY x_source_file
      ) AS x_place
    FROM oci_focus
    WHERE x_org_slug = @org_slug
      AND x_pipeline_id = @pipeline_id
      AND x_credential_id = @credential_id
      AND x_pipeline_run_date IN UNNEST(@run_dates)
  )
  WHERE oci_ReferenceNumber IS NULL OR x_place = 1
),
named AS (
  SELECT
    *,
    CASE WHEN oci_ReferenceNumber IS NULL THEN 1 ELSE alike END AS x_deliveries,
    COALESCE(PublisherName, ProviderName) AS x_seller
  FROM source
)
-- The preview has two enumerations under older words, and one column for two of today's.
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
  CASE
    WHEN ChargeCategory = 'Adjustment' AND ChargeSubcategory = 'Credit' THEN 'Credit'
    ELSE ChargeCategory
  END AS ChargeCategory,
  -- What amends an earlier row corrects it where that row's period is over; before, it restates it.
  CASE
    WHEN oci_BackReferenceNumber IS NOT NULL AND x_pipeline_run_date >= DATE(BillingPeriodEnd)
      THEN 'Correction'
    ELSE ChargeClass
  END AS ChargeClass,
  ChargeDescription,
  ChargeFrequency,
  ChargePeriodEnd,
  ChargePeriodStart,
  CommitmentDiscountCategory,
  CommitmentDiscountId,
  CommitmentDiscountName,
  CommitmentDiscountQuantity,
  CASE ChargeSubcategory
    WHEN 'Used Commitment' THEN 'Used'
    WHEN 'Unused Commitment' THEN 'Unused'
    ELSE CommitmentDiscountStatus
  END AS CommitmentDiscountStatus,
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
  CASE PricingCategory
    WHEN 'On-Demand' THEN 'Standard'
    WHEN 'Commitment-Based' THEN 'Committed'
    ELSE PricingCategory
  END AS PricingCategory,
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
  ChargeSubcategory AS x_ChargeSubcategory,
  oci_BackReferenceNumber AS x_oci_BackReferenceNumber,
  oci_CompartmentId AS x_oci_CompartmentId,
  oci_CompartmentName AS x_oci_CompartmentName,
  oci_OverageFlag AS x_oci_OverageFlag,
  oci_ReferenceNumber AS x_oci_ReferenceNumber,
  x_deliveries,
  'provider_export' AS x_cost_basis,
  -- The same row has the same id in every run and every delivery.
  TO_HEX(MD5(CONCAT(
    COALESCE(BillingAccountId, ''), '|',
    COALESCE(oci_ReferenceNumber, ''), '|',
    COALESCE(oci_BackReferenceNumber, ''), '|',
    COALESCE(SubAccountId, ''), '|',
    COALESCE(ServiceName, ''), '|',
    COALESCE(ResourceId, ''), '|',
    COALESCE(SkuId, ''), '|',
    COALESCE(ChargeCategory, ''), '|',
    COALESCE(ChargeDescription, ''), '|',
    COALESCE(BillingCurrency, ''), '|',
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
