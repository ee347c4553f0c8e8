/*
procedure: genai_unified_usage
description: The usage of generative AI a day, provider, project and model, its kinds of tokens side by side.
output: genai_unified_usage
rows: any
totals: [tokens, requests]
columns:
  provider: text finding
  usage_date: date finding
  account_id: text finding
  project_id: text
  model: text
  tokens: decimal finding
  input_tokens: decimal finding
  cached_input_tokens: decimal finding
  cache_write_tokens: decimal finding
  output_tokens: decimal finding
  requests: decimal finding
*/
-- Meters are disjoint, so that the kinds of tokens add up to `tokens`. Of two credentials of one account
-- the first by name counts. What counts something else than tokens and requests stays in genai_usage.
WITH ranked AS (
  SELECT
    *,
    CONCAT(x_pipeline_id, '|', x_credential_id) AS place
  FROM genai_usage
  WHERE x_org_slug = @org_slug
    AND x_pipeline_run_date IN UNNEST(@run_dates)
    AND unit IN ('Tokens', 'Requests')
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
    ranked.*,
    CASE WHEN unit = 'Tokens' THEN quantity ELSE CAST(0 AS BIGNUMERIC) END AS tokens,
    CASE WHEN unit = 'Requests' THEN quantity ELSE CAST(0 AS BIGNUMERIC) END AS requests
  FROM ranked
  JOIN chosen
    ON ranked.provider = chosen.chosen_provider
    AND ranked.account_id = chosen.chosen_account
    AND ranked.x_pipeline_run_date = chosen.chosen_day
    AND ranked.place = chosen.chosen_place
),
kinds AS (
  SELECT
    *,
    CASE
      WHEN meter IN ('cached_input', 'cached_input_audio', 'cached_input_image', 'cached_input_other')
        THEN 'cached'
      WHEN meter IN ('cache_write', 'cache_write_5m', 'cache_write_1h') THEN 'written'
      WHEN meter IN ('output', 'output_audio', 'output_image', 'output_other') THEN 'output'
      ELSE 'input'
    END AS kind
  FROM source
)
SELECT
  x_pipeline_run_date AS _run_date,
  provider,
  x_pipeline_run_date AS usage_date,
  account_id,
  project_id,
  model,
  CAST(SUM(tokens) AS BIGNUMERIC) AS tokens,
  CAST(SUM(CASE WHEN kind = 'input' THEN tokens ELSE CAST(0 AS BIGNUMERIC) END) AS BIGNUMERIC) AS input_tokens,
  CAST(SUM(CASE WHEN kind = 'cached' THEN tokens ELSE CAST(0 AS BIGNUMERIC) END) AS BIGNUMERIC) AS cached_input_tokens,
  CAST(SUM(CASE WHEN kind = 'written' THEN tokens ELSE CAST(0 AS BIGNUMERIC) END) AS BIGNUMERIC) AS cache_write_tokens,
  CAST(SUM(CASE WHEN kind = 'output' THEN tokens ELSE CAST(0 AS BIGNUMERIC) END) AS BIGNUMERIC) AS output_tokens,
  CAST(SUM(requests) AS BIGNUMERIC) AS requests
FROM kinds
GROUP BY provider, x_pipeline_run_date, account_id, project_id, model
