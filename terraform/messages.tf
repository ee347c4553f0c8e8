# Topics, their push subscriptions, the queue of messages for later, and the tick.
locals {
  topics      = toset(["starts", "steps", "completions", "run-events", "dead-letters"])
  subscribers = { for name, function in local.deployed : function.topic => name if function.topic != null }
}

resource "google_pubsub_topic" "this" {
  #checkov:skip=CKV_GCP_83:messages hold no secret and no row of data; a key of ours that is away would stop every run
  for_each = local.topics

  name                       = "${local.prefix}-${each.key}"
  message_retention_duration = "604800s" # a week: what was delivered can be sent again

  depends_on = [google_project_service.this]
}

# The id of a subscription is that of its topic: a letter says by it what it was for.
resource "google_pubsub_subscription" "push" {
  for_each = local.subscribers

  name                       = google_pubsub_topic.this[each.key].name
  topic                      = google_pubsub_topic.this[each.key].id
  ack_deadline_seconds       = local.functions[each.value].timeout # sooner, and a second copy runs beside the first
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never: a quiet month must not delete it
  }

  push_config {
    push_endpoint = google_cloud_run_v2_service.this[each.value].uri

    oidc_token {
      service_account_email = google_service_account.this["pusher"].email
      audience              = google_cloud_run_v2_service.this[each.value].uri
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # What is given up becomes a letter. A letter that cannot be stored stays here, and the alert on the
  # oldest message tells of it.
  dynamic "dead_letter_policy" {
    for_each = each.key == "dead-letters" ? [] : [google_pubsub_topic.this["dead-letters"].id]
    content {
      dead_letter_topic     = dead_letter_policy.value
      max_delivery_attempts = 20
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.pusher]
}

# Pub/Sub itself asks for the pusher's token, publishes to dead-letters and acknowledges what it moved there.
locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_service_account_iam_member" "pubsub_tokens" {
  service_account_id = google_service_account.this["pusher"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent

  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic_iam_member" "pubsub_dead_letters" {
  topic  = google_pubsub_topic.this["dead-letters"].name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "pubsub_moves" {
  for_each = { for topic, function in local.subscribers : topic => function if topic != "dead-letters" }

  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# A task of the queue publishes one message at its time. It is tried until it is published: a queue has no
# dead letters, and the tick makes up for what a queue loses.
resource "google_cloud_tasks_queue" "later" {
  name     = "${local.prefix}-later"
  location = var.region

  rate_limits {
    max_dispatches_per_second = 500
    max_concurrent_dispatches = 500
  }

  retry_config {
    max_attempts = -1
    min_backoff  = "1s"
    max_backoff  = "300s"
  }

  depends_on = [google_project_service.this]
}

# The tick: every minute, whatever is due, lost or overdue is found and put back at the door.
resource "google_cloud_scheduler_job" "tick" {
  for_each = { for name, function in local.deployed : name => function if name == "scheduler" }

  name             = "${local.prefix}-tick"
  region           = var.region
  schedule         = "* * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "${each.value.timeout}s"

  retry_config {
    retry_count = 0 # the next one comes in a minute
  }

  http_target {
    uri         = google_cloud_run_v2_service.this[each.key].uri
    http_method = "POST"

    oidc_token {
      service_account_email = google_service_account.this["pusher"].email
      audience              = google_cloud_run_v2_service.this[each.key].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.pusher]
}
