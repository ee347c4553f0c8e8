/*
procedure: genai_unified_costs
description: The amounts of generative AI that count, from one source a provider, account and day.
output: genai_unified_costs
rows: same
totals: [amount]
currency: currency
columns:
  provider: text finding
  charge_date: date finding
  account_id: text finding
  project_id: text
  api_key_id: text
  service: text
  model: text
  service_tier: text
  is_batch: boolean
  context_window: text
  inference_geo: text
  speed: text
  variant: text
  line_item: text
  meter: text
  amount: decimal finding
  currency: text finding
  quantity: decimal
  unit: text
  pricing_quantity: decimal
  pricing_unit: text
  unit_price: decimal
  cost_basis: text finding
  price_match: text
  rate_card: text
  source_pipeline_id: text finding
  source_credential_id: text finding
*/
-- What a provider reports of a day comes before what its export says, and that before any estimate: never
-- are two sources of the same spend added up. Of two credentials of one account the first by name counts.
WITH ranked AS (
  SELECT
    *,
    CONCAT(
      CASE cost_basis
        WHEN 'provider_reported' THEN '1'
        WHEN 'provider_export' THEN '2'
        WHEN 'gateway_estimate' THEN '3'
        ELSE '4'
      END,
      x_pipeline_id, '|', x_credential_id
    ) AS place
  FROM genai_costs
  WHERE x_org_slug = @org_slug
    AND x_pipeline_run_date IN UNNEST(@run_dates)
),
chosen AS (
  SELECT
    provider AS chosen_provider,
    account_id AS chosen_account,
    x_pipeline_run_date AS chosen_day,
    MIN(place) AS chosen_place
  FROM ranked
  GROUP BY provider, account_id, x_pipeline_run_date
),
source AS (
  SELECT
    ranked.*
  FROM ranked
  JOIN chosen
    ON ranked.provider = chosen.chosen_provider
    AND ranked.account_id = chosen.chosen_account
    AND ranked.x_pipeline_run_date = chosen.chosen_day
    AND ranked.place = chosen.chosen_place
)
SELECT
  x_pipeline_run_date AS _run_date,
  provider,
  charge_date,
  account_id,
  project_id,
  api_key_id,
  service,
  model,
  service_tier,
  is_batch,
  context_window,
  inference_geo,
  speed,
  variant,
  line_item,
  meter,
  amount,
  currency,
  quantity,
  unit,
  pricing_quantity,
  pricing_unit,
  unit_price,
  cost_basis,
  price_match,
  rate_card,
  x_pipeline_id AS source_pipeline_id,
  x_credential_id AS source_credential_id
FROM source
