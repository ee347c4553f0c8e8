/*
procedure: focus_from_subscriptions
description: Invoice lines of subscriptions, each as a purchase and the days that it pays for.
output: focus_costs
rows: any
totals: [BilledCost, ContractedCost, EffectiveCost, ListCost]
currency: BillingCurrency
columns:
  x_BillingCycle: text
  x_CycleEnd: date
  x_CycleStart: date
  x_LineId: text
  x_LineKind: text
  x_Seats: integer
  x_UnitPrice: decimal
*/
-- An invoice line becomes a pair that covers itself. One purchase, in the month of the invoice, is billed
-- and costs nothing; one row of usage for each day that it pays for is billed nothing and costs its share.
-- So what is billed and what it costs sum to the same. List and contracted costs stand in both: who adds
-- them up leaves one side out.
--
-- There are no unit prices: without a SkuPriceId FOCUS has none. Ours stand in x_UnitPrice and x_Seats.
WITH source AS (
  SELECT
    *,
    currency AS BillingCurrency,
    billed AS BilledCost,
    effective AS EffectiveCost,
    billed + effective AS ContractedCost,
    billed_list + effective_list AS ListCost
  FROM subscription_terms
  WHERE x_org_slug = @org_slug
    AND x_pipeline_id = @pipeline_id
    AND x_credential_id = @credential_id
    AND x_pipeline_run_date IN UNNEST(@run_dates)
),
-- Of `total` millionths the first k of n days have DIV(total * k, n), here by quotient and remainder, so
-- that nothing grows beyond 64 bits; a day has what its end has more than its beginning. The source's own
-- sums were told by shared/core/amortise.py: where they differ from these the call fails.
parts AS (
  SELECT
    *,
    DIV(ABS(amount_millionths), line_days) AS amount_quotient,
    MOD(ABS(amount_millionths), line_days) AS amount_remainder,
    DIV(ABS(list_millionths), line_days) AS list_quotient,
    MOD(ABS(list_millionths), line_days) AS list_remainder,
    IF(takes_rest, line_days, day_number + 1) AS until_day
  FROM source
),
shares AS (
  SELECT
    *,
    SIGN(amount_millionths) * (
      amount_quotient * (until_day - day_number)
      + DIV(amount_remainder * until_day, line_days)
      - DIV(amount_remainder * day_number, line_days)
    ) AS amount_share,
    SIGN(list_millionths) * (
      list_quotient * (until_day - day_number)
      + DIV(list_remainder * until_day, line_days)
      - DIV(list_remainder * day_number, line_days)
    ) AS list_share
  FROM parts
),
-- A product of decimals has the digits of both: hence the narrow types.
costs AS (
  SELECT
    * EXCEPT (BilledCost, ContractedCost, EffectiveCost, ListCost),
    CAST(CAST(amount_share AS NUMERIC(20, 0)) * CAST('0.000001' AS NUMERIC(7, 6)) AS BIGNUMERIC)
      AS share,
    CAST(CAST(list_share AS NUMERIC(20, 0)) * CAST('0.000001' AS NUMERIC(7, 6)) AS BIGNUMERIC)
      AS share_of_list
  FROM shares
),
charges AS (
  SELECT
    *,
    'Purchase' AS charge_category,
    IF(line_kind = 'cycle', 'Recurring', 'One-Time') AS charge_frequency,
    invoice_date AS billed_on,
    line_start AS charge_start,
    line_end AS charge_end,
    amount AS BilledCost,
    amount AS ContractedCost,
    CAST(0 AS BIGNUMERIC) AS EffectiveCost,
    list_amount AS ListCost
  FROM costs
  WHERE invoice_date = x_pipeline_run_date
  UNION ALL
  SELECT
    *,
    'Usage' AS charge_category,
    'Usage-Based' AS charge_frequency,
    x_pipeline_run_date AS billed_on,
    x_pipeline_run_date AS charge_start,
    DATE_ADD(x_pipeline_run_date, INTERVAL 1 DAY) AS charge_end,
    CAST(0 AS BIGNUMERIC) AS BilledCost,
    share AS ContractedCost,
    share AS EffectiveCost,
    share_of_list AS ListCost
  FROM costs
  WHERE day_number IS NOT NULL
)
SELECT
  x_pipeline_run_date AS _run_date,
  CAST(NULL AS JSON) AS AllocatedMethodDetails,
  CAST(NULL AS STRING) AS AllocatedMethodId,
  CAST(NULL AS STRING) AS AllocatedResourceId,
  CAST(NULL AS STRING) AS AllocatedResourceName,
  CAST(NULL AS JSON) AS AllocatedTags,
  CAST(NULL AS STRING) AS AvailabilityZone,
  BilledCost,
  account AS BillingAccountId,
  CAST(NULL AS STRING) AS BillingAccountName,
  CAST(NULL AS STRING) AS BillingAccountType,
  BillingCurrency,
  TIMESTAMP(DATE_ADD(DATE_TRUNC(billed_on, MONTH), INTERVAL 1 MONTH)) AS BillingPeriodEnd,
  TIMESTAMP(DATE_TRUNC(billed_on, MONTH)) AS BillingPeriodStart,
  CAST(NULL AS STRING) AS CapacityReservationId,
  CAST(NULL AS STRING) AS CapacityReservationStatus,
  charge_category AS ChargeCategory,
  IF(corrects, 'Correction', NULL) AS ChargeClass,
  CONCAT(
    product,
    COALESCE(CONCAT(' ', plan), ''),
    CASE line_kind
      WHEN 'change' THEN ', change'
      WHEN 'cancel' THEN ', refund of the rest'
      WHEN 'refund' THEN ', refund'
      ELSE ''
    END,
    ', ', CAST(line_start AS STRING), ' to ', CAST(line_end AS STRING)
  ) AS ChargeDescription,
  charge_frequency AS ChargeFrequency,
  TIMESTAMP(charge_end) AS ChargePeriodEnd,
  TIMESTAMP(charge_start) AS ChargePeriodStart,
  CAST(NULL AS STRING) AS CommitmentDiscountCategory,
  CAST(NULL AS STRING) AS CommitmentDiscountId,
  CAST(NULL AS STRING) AS CommitmentDiscountName,
  CAST(NULL AS BIGNUMERIC) AS CommitmentDiscountQuantity,
  CAST(NULL AS STRING) AS CommitmentDiscountStatus,
  CAST(NULL AS STRING) AS CommitmentDiscountType,
  CAST(NULL AS STRING) AS CommitmentDiscountUnit,
  CAST(NULL AS JSON) AS CommitmentProgramEligibilityDetails,
  CAST(NULL AS BIGNUMERIC) AS ConsumedQuantity,
  CAST(NULL AS STRING) AS ConsumedUnit,
  CAST(NULL AS JSON) AS ContractApplied,
  ContractedCost,
  CAST(NULL AS BIGNUMERIC) AS ContractedUnitPrice,
  EffectiveCost,
  vendor AS HostProviderName,
  CAST(NULL AS STRING) AS InvoiceDetailId,
  CAST(NULL AS STRING) AS InvoiceId,
  invoice_issuer AS InvoiceIssuerName,
  ListCost,
  CAST(NULL AS BIGNUMERIC) AS ListUnitPrice,
  CAST(NULL AS STRING) AS PricingCategory,
  CAST(NULL AS STRING) AS PricingCurrency,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyContractedUnitPrice,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyEffectiveCost,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyListUnitPrice,
  CAST(NULL AS BIGNUMERIC) AS PricingQuantity,
  CAST(NULL AS STRING) AS PricingUnit,
  vendor AS ProviderName,
  vendor AS PublisherName,
  CAST(NULL AS STRING) AS RegionId,
  CAST(NULL AS STRING) AS RegionName,
  subscription_id AS ResourceId,
  CONCAT(product, COALESCE(CONCAT(' ', plan), '')) AS ResourceName,
  'Subscription' AS ResourceType,
  category AS ServiceCategory,
  product AS ServiceName,
  vendor AS ServiceProviderName,
  subcategory AS ServiceSubcategory,
  CAST(NULL AS STRING) AS SkuId,
  CAST(NULL AS STRING) AS SkuMeter,
  CAST(NULL AS JSON) AS SkuPriceDetails,
  CAST(NULL AS STRING) AS SkuPriceId,
  CAST(NULL AS STRING) AS SubAccountId,
  CAST(NULL AS STRING) AS SubAccountName,
  CAST(NULL AS STRING) AS SubAccountType,
  CAST(NULL AS JSON) AS Tags,
  billing_cycle AS x_BillingCycle,
  cycle_end AS x_CycleEnd,
  cycle_start AS x_CycleStart,
  line_id AS x_LineId,
  line_kind AS x_LineKind,
  seats AS x_Seats,
  unit_price AS x_UnitPrice,
  'agreed_price' AS x_cost_basis,
  -- The same line on the same day has the same id in every run, whatever becomes of the subscription.
  TO_HEX(MD5(CONCAT(
    subscription_id, '|', line_id, '|', charge_category, '|', CAST(x_pipeline_run_date AS STRING)
  ))) AS x_row_id,
  x_credential_id AS x_source_credential_id,
  CAST(NULL AS STRING) AS x_source_file,
  x_pipeline_id AS x_source_pipeline_id
FROM charges
