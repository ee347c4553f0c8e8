/*
procedure: focus_from_genai
description: The amounts of genai_unified_costs as rows of the FOCUS table, one for one.
output: focus_costs
rows: same
totals: [BilledCost]
currency: BillingCurrency
columns:
  x_genai_provider: text
  x_model: text
  x_meter: text
  x_service_tier: text
  x_is_batch: boolean
  x_context_window: text
  x_inference_geo: text
  x_speed: text
  x_api_key_id: text
  x_price_match: text
  x_rate_card: text
*/
-- The four costs are one: no provider tells its list price beside what it charges. A negative amount is a
-- credit. What was used and has no price is in genai_unified_costs, and not here: FOCUS has no cost that
-- is not known, and 0 would be one that is. Quantities stand where a price is known, as FOCUS wants them.
WITH source AS (
  SELECT
    *,
    amount AS BilledCost,
    currency AS BillingCurrency
  FROM genai_unified_costs
  WHERE x_org_slug = @org_slug
    AND x_pipeline_id = @pipeline_id
    AND x_credential_id = @credential_id
    AND x_pipeline_run_date IN UNNEST(@run_dates)
    AND amount IS NOT NULL
),
providers AS (
  SELECT 'openai' AS known_provider, 'OpenAI' AS company, 'OpenAI API' AS api, 'Project' AS project_type
  UNION ALL
  SELECT 'anthropic', 'Anthropic', 'Claude API', 'Workspace'
  UNION ALL
  SELECT 'gemini', 'Google', 'Gemini API', 'Project'
  UNION ALL
  SELECT 'deepseek', 'DeepSeek', 'DeepSeek API', 'Project'
),
meters AS (
  SELECT 'input' AS known_meter, 'Input Tokens' AS meter_name
  UNION ALL
  SELECT 'input_audio', 'Audio Input Tokens'
  UNION ALL
  SELECT 'input_image', 'Image Input Tokens'
  UNION ALL
  SELECT 'input_other', 'Other Input Tokens'
  UNION ALL
  SELECT 'cached_input', 'Cached Input Tokens'
  UNION ALL
  SELECT 'cached_input_audio', 'Cached Audio Input Tokens'
  UNION ALL
  SELECT 'cached_input_image', 'Cached Image Input Tokens'
  UNION ALL
  SELECT 'cached_input_other', 'Other Cached Input Tokens'
  UNION ALL
  SELECT 'cache_write', 'Cache Write Tokens'
  UNION ALL
  SELECT 'cache_write_5m', 'Cache Write Tokens (5 minutes)'
  UNION ALL
  SELECT 'cache_write_1h', 'Cache Write Tokens (1 hour)'
  UNION ALL
  SELECT 'output', 'Output Tokens'
  UNION ALL
  SELECT 'output_audio', 'Audio Output Tokens'
  UNION ALL
  SELECT 'output_image', 'Image Output Tokens'
  UNION ALL
  SELECT 'output_other', 'Other Output Tokens'
  UNION ALL
  SELECT 'requests', 'Requests'
  UNION ALL
  SELECT 'images', 'Images'
  UNION ALL
  SELECT 'characters', 'Characters'
  UNION ALL
  SELECT 'audio_seconds', 'Audio'
  UNION ALL
  SELECT 'storage_bytes', 'Storage'
  UNION ALL
  SELECT 'sessions', 'Sessions'
  UNION ALL
  SELECT 'web_searches', 'Web Searches'
  UNION ALL
  SELECT 'file_searches', 'File Searches'
),
named AS (
  SELECT
    source.*,
    providers.company,
    providers.api,
    providers.project_type,
    meters.meter_name,
    CONCAT(provider, '/', line_item) AS sku,
    line_item IS NOT NULL AND unit_price IS NOT NULL AS is_priced
  FROM source
  LEFT JOIN providers
    ON source.provider = providers.known_provider
  LEFT JOIN meters
    ON source.meter = meters.known_meter
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
  account_id AS BillingAccountId,
  CAST(NULL AS STRING) AS BillingAccountName,
  'Organization' AS BillingAccountType,
  BillingCurrency,
  TIMESTAMP(DATE_ADD(DATE_TRUNC(charge_date, MONTH), INTERVAL 1 MONTH)) AS BillingPeriodEnd,
  TIMESTAMP(DATE_TRUNC(charge_date, MONTH)) AS BillingPeriodStart,
  CAST(NULL AS STRING) AS CapacityReservationId,
  CAST(NULL AS STRING) AS CapacityReservationStatus,
  CASE WHEN BilledCost < 0 THEN 'Credit' ELSE 'Usage' END AS ChargeCategory,
  CAST(NULL AS STRING) AS ChargeClass,
  line_item AS ChargeDescription,
  'Usage-Based' AS ChargeFrequency,
  TIMESTAMP(DATE_ADD(charge_date, INTERVAL 1 DAY)) AS ChargePeriodEnd,
  TIMESTAMP(charge_date) AS ChargePeriodStart,
  CAST(NULL AS STRING) AS CommitmentDiscountCategory,
  CAST(NULL AS STRING) AS CommitmentDiscountId,
  CAST(NULL AS STRING) AS CommitmentDiscountName,
  CAST(NULL AS BIGNUMERIC) AS CommitmentDiscountQuantity,
  CAST(NULL AS STRING) AS CommitmentDiscountStatus,
  CAST(NULL AS STRING) AS CommitmentDiscountType,
  CAST(NULL AS STRING) AS CommitmentDiscountUnit,
  CAST(NULL AS JSON) AS CommitmentProgramEligibilityDetails,
  CASE WHEN is_priced THEN quantity END AS ConsumedQuantity,
  CASE WHEN is_priced THEN unit END AS ConsumedUnit,
  CAST(NULL AS JSON) AS ContractApplied,
  BilledCost AS ContractedCost,
  CASE WHEN is_priced THEN unit_price END AS ContractedUnitPrice,
  BilledCost AS EffectiveCost,
  company AS HostProviderName,
  CAST(NULL AS STRING) AS InvoiceDetailId,
  CAST(NULL AS STRING) AS InvoiceId,
  company AS InvoiceIssuerName,
  BilledCost AS ListCost,
  CASE WHEN is_priced THEN unit_price END AS ListUnitPrice,
  CASE WHEN is_priced THEN 'Standard' END AS PricingCategory,
  CAST(NULL AS STRING) AS PricingCurrency,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyContractedUnitPrice,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyEffectiveCost,
  CAST(NULL AS BIGNUMERIC) AS PricingCurrencyListUnitPrice,
  CASE WHEN is_priced THEN pricing_quantity END AS PricingQuantity,
  CASE WHEN is_priced THEN pricing_unit END AS PricingUnit,
  company AS ProviderName,
  company AS PublisherName,
  CAST(NULL AS STRING) AS RegionId,
  CAST(NULL AS STRING) AS RegionName,
  CAST(NULL AS STRING) AS ResourceId,
  CAST(NULL AS STRING) AS ResourceName,
  CAST(NULL AS STRING) AS ResourceType,
  'AI and Machine Learning' AS ServiceCategory,
  api AS ServiceName,
  company AS ServiceProviderName,
  'Generative AI' AS ServiceSubcategory,
  sku AS SkuId,
  CASE WHEN sku IS NOT NULL THEN meter_name END AS SkuMeter,
  CAST(NULL AS JSON) AS SkuPriceDetails,
  CASE
    WHEN is_priced THEN CONCAT(
      sku, '/', COALESCE(service_tier, 'default'), '/', COALESCE(context_window, 'default')
    )
  END AS SkuPriceId,
  project_id AS SubAccountId,
  -- the reports have no names, and FOCUS wants one where there is an id
  project_id AS SubAccountName,
  CASE WHEN project_id IS NOT NULL THEN project_type END AS SubAccountType,
  CAST(NULL AS JSON) AS Tags,
  cost_basis AS x_cost_basis,
  TO_HEX(MD5(CONCAT(
    provider, '|', account_id, '|', BillingCurrency, '|', cost_basis, '|',
    CAST(charge_date AS STRING), '|',
    COALESCE(project_id, ''), '|',
    COALESCE(api_key_id, ''), '|',
    COALESCE(service, ''), '|',
    COALESCE(line_item, ''), '|',
    COALESCE(model, ''), '|',
    COALESCE(meter, ''), '|',
    COALESCE(service_tier, ''), '|',
    COALESCE(CAST(is_batch AS STRING), ''), '|',
    COALESCE(context_window, ''), '|',
    COALESCE(inference_geo, ''), '|',
    COALESCE(speed, ''), '|',
    COALESCE(variant, ''), '|',
    COALESCE(price_match, '')
  ))) AS x_row_id,
  source_credential_id AS x_source_credential_id,
  CAST(NULL AS STRING) AS x_source_file,
  source_pipeline_id AS x_source_pipeline_id,
  provider AS x_genai_provider,
  model AS x_model,
  meter AS x_meter,
  service_tier AS x_service_tier,
  is_batch AS x_is_batch,
  context_window AS x_context_window,
  inference_geo AS x_inference_geo,
  speed AS x_speed,
  api_key_id AS x_api_key_id,
  price_match AS x_price_match,
  rate_card AS x_rate_card
FROM named
