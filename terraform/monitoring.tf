# What wakes somebody up, and the page they look at first. Each alert says what it means and what to do in
# docs/operations.md, under its own name.
locals {
  alerts = {
    "dead letters" = {
      filter    = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.this["parked"].name}\" AND resource.type=\"cloud_run_revision\""
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      threshold = 0
      duration  = "0s"
      severity  = "ERROR"
      says      = "A message could not be handled and was parked. Its run is brought to an end by the tick; its reason is in `pipelines dead-letters list`."
    }
    "oldest message" = {
      filter    = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.type=\"pubsub_subscription\" AND resource.label.subscription_id=starts_with(\"${local.prefix}-\")"
      aligner   = "ALIGN_MAX"
      reducer   = "REDUCE_MAX"
      threshold = 900
      duration  = "300s"
      severity  = "ERROR"
      says      = "A message has waited for more than 15 minutes: its function is down, refuses, or cannot keep up."
    }
    "errors of functions" = {
      filter    = "metric.type=\"run.googleapis.com/request_count\" AND resource.type=\"cloud_run_revision\" AND resource.label.service_name=starts_with(\"${local.prefix}-\") AND metric.label.response_code_class=\"5xx\""
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      threshold = 20
      duration  = "0s"
      severity  = "ERROR"
      says      = "A function answered 5xx more than 20 times in five minutes: 503 says that a store of ours could not be reached, 500 is a fault of ours, and both are in its log."
    }
    "failed runs" = {
      filter    = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.this["ended"].name}\" AND resource.type=\"cloud_run_revision\" AND metric.label.status=\"failed\""
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      threshold = var.failed_runs_in_five_minutes
      duration  = "0s"
      severity  = "WARNING"
      says      = "More runs failed at once than one organization's bad credential explains."
    }
    "long steps" = {
      filter    = "metric.type=\"run.googleapis.com/job/completed_task_attempt_count\" AND resource.type=\"cloud_run_job\" AND resource.label.job_name=\"${local.long_steps}\" AND metric.label.result=\"failed\""
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      threshold = 0
      duration  = "0s"
      severity  = "WARNING"
      says      = "An execution of the job for long steps ended without storing the end of its attempt."
    }
  }

  # Silence is told by the absence of what must be there.
  silences = {
    "tick" = {
      filter   = "metric.type=\"run.googleapis.com/request_count\" AND resource.type=\"cloud_run_revision\" AND resource.label.service_name=\"${local.functions["scheduler"].id}\" AND metric.label.response_code_class=\"2xx\""
      duration = "600s"
      says     = "No tick was answered for ten minutes: what is due, lost or overdue stays where it is."
    }
    "runs" = {
      filter   = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.this["ended"].name}\" AND resource.type=\"cloud_run_revision\" AND metric.label.status=\"completed\""
      duration = "84600s" # the longest there is: 23 h 30 min
      says     = "No run has completed for a day."
    }
  }

  metrics = {
    parked = { filter = "jsonPayload.message=\"message.parked\"", label = "topic", description = "Messages that became dead letters" }
    ended  = { filter = "jsonPayload.message=\"run.ended\"", label = "status", description = "Runs that ended, by status" }
  }
}

resource "google_logging_metric" "this" {
  for_each = local.metrics

  name        = "${local.prefix}-${each.key}"
  description = each.value.description
  filter      = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name:\"${local.prefix}-\" AND ${each.value.filter}"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"

    labels {
      key         = each.value.label
      value_type  = "STRING"
      description = "The ${each.value.label} that the line names"
    }
  }

  label_extractors = { (each.value.label) = "EXTRACT(jsonPayload.${each.value.label})" }

  depends_on = [google_project_service.this]
}

# The requests that went well are most of what Cloud Run logs, and nobody reads them: 19 of 20 are left out.
resource "google_logging_project_exclusion" "good_requests" {
  name        = "${local.prefix}-good-requests"
  description = "19 of 20 request logs with 2xx"
  filter      = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name:\"${local.prefix}-\" AND log_id(\"run.googleapis.com/requests\") AND httpRequest.status<300 AND sample(insertId, 0.95)"
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = "${local.prefix}: ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "above" {
  for_each = local.alerts

  display_name          = "${local.prefix}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  conditions {
    display_name = each.key

    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = each.value.duration

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
      }

      trigger {
        count = 1
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.says}\n\nWhat to do: docs/operations.md, \"Alert: ${each.key}\"."
  }
}

resource "google_monitoring_alert_policy" "silent" {
  for_each = local.silences

  display_name          = "${local.prefix}: no ${each.key}"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  conditions {
    display_name = "no ${each.key}"

    condition_absent {
      filter   = each.value.filter
      duration = each.value.duration

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }

      trigger {
        count = 1
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.says}\n\nWhat to do: docs/operations.md, \"Alert: no ${each.key}\"."
  }
}

resource "google_monitoring_dashboard" "this" {
  dashboard_json = templatefile("${path.module}/dashboard.json.tftpl", {
    prefix    = local.prefix
    parked    = google_logging_metric.this["parked"].name
    ended     = google_logging_metric.this["ended"].name
    scheduler = local.functions["scheduler"].id
  })

  depends_on = [google_project_service.this]
}
