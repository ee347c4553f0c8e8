# The table of functions: one Cloud Run service each, of one image. A new function is a line here and in
# main.py.
#
#   topic        its push subscription; none: it is called over HTTP
#   timeout      seconds of a request, and the ack deadline of the subscription
#   concurrency  requests at a time in one instance, and so the threads of its server
#
# PostgreSQL takes connections from each instance: two for the quota (api, coordinator, event_trigger,
# scheduler), one for schedules (api, event_trigger, scheduler), one for subscriptions (api, step_worker). The
# sum over all instances stays below what the pooler of Supabase admits (200 on Micro, 400 on Small).
locals {
  functions = {
    for name, function in {
      api           = { topic = null, timeout = 60, concurrency = 32, cpu = "1", memory = "512Mi", max_instances = 10 }
      step_worker   = { topic = "steps", timeout = 600, concurrency = 4, cpu = "1", memory = "2Gi", max_instances = 50 }
      coordinator   = { topic = "completions", timeout = 60, concurrency = 16, cpu = "1", memory = "512Mi", max_instances = 20 }
      event_trigger = { topic = "starts", timeout = 60, concurrency = 16, cpu = "1", memory = "512Mi", max_instances = 5 }
      dead_letter   = { topic = "dead-letters", timeout = 60, concurrency = 16, cpu = "1", memory = "512Mi", max_instances = 2 }
      scheduler     = { topic = null, timeout = 300, concurrency = 4, cpu = "1", memory = "512Mi", max_instances = 1 }
      } : name => {
      topic         = function.topic
      timeout       = function.timeout
      public        = name == "api"
      id            = "${local.prefix}-${replace(name, "_", "-")}"
      concurrency   = coalesce(try(var.functions[name].concurrency, null), function.concurrency)
      cpu           = coalesce(try(var.functions[name].cpu, null), function.cpu)
      memory        = coalesce(try(var.functions[name].memory, null), function.memory)
      min_instances = coalesce(try(var.functions[name].min_instances, null), 0)
      max_instances = coalesce(try(var.functions[name].max_instances, null), function.max_instances)
    }
  }

  deployed = var.image == null ? {} : local.functions

  prefix = "pipelines-${var.environment}"

  # What every function, and the job, reads of its environment: docs/operations.md.
  settings = merge({
    PIPELINES_MODE           = "cloud"
    PIPELINES_PROJECT        = var.project
    PIPELINES_ENVIRONMENT    = var.environment
    PIPELINES_LOCATION       = var.location
    PIPELINES_FIRESTORE      = google_firestore_database.this.name
    PIPELINES_KMS_KEY        = google_kms_crypto_key.data_keys.id
    PIPELINES_TASKS_QUEUE    = google_cloud_tasks_queue.later.id
    PIPELINES_TASKS_ACCOUNT  = google_service_account.this["tasks"].email
    PIPELINES_PUSH_ACCOUNT   = google_service_account.this["pusher"].email
    PIPELINES_STAGING_BUCKET = google_storage_bucket.staging.name
    PIPELINES_LONG_STEPS_JOB = local.long_steps_job
  }, var.settings)
}

resource "google_cloud_run_v2_service" "this" {
  for_each = local.deployed

  name                = each.value.id
  location            = var.region
  ingress             = each.value.public && var.public_api ? "INGRESS_TRAFFIC_ALL" : each.value.public ? "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" : "INGRESS_TRAFFIC_INTERNAL_ONLY"
  deletion_protection = var.deletion_protection

  template {
    service_account                  = google_service_account.this[each.key].email
    timeout                          = "${each.value.timeout}s"
    max_instance_request_concurrency = each.value.concurrency

    scaling {
      min_instance_count = each.value.min_instances
      max_instance_count = each.value.max_instances
    }

    containers {
      image = var.image

      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = true # pay for requests, not for instances; the default changes with `resources`
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = merge(local.settings, {
          FUNCTION_TARGET = each.key
          THREADS         = tostring(each.value.concurrency)
          # Without it the server in the container does not know how long Cloud Run waits.
          CLOUD_RUN_TIMEOUT_SECONDS = tostring(each.value.timeout)
        })
        content {
          name  = env.key
          value = env.value
        }
      }

      env {
        name = "PIPELINES_ACCOUNTS"
        value_source {
          secret_key_ref {
            secret  = google_secret_manager_secret.accounts.secret_id
            version = "latest"
          }
        }
      }

      startup_probe {
        tcp_socket {
          port = 8080
        }
        period_seconds    = 1
        timeout_seconds   = 1
        failure_threshold = 30
      }
    }
  }

  depends_on = [
    google_project_service.this,
    google_secret_manager_secret_iam_member.accounts,
  ]
}

# A function answers only who has been invited: the pusher brings messages and ticks. The API lets in who
# has a key, and looks at the key itself.
resource "google_cloud_run_v2_service_iam_member" "pusher" {
  for_each = { for name, function in local.deployed : name => function if !function.public }

  name     = google_cloud_run_v2_service.this[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.this["pusher"].member
}

resource "google_cloud_run_v2_service_iam_member" "everybody" {
  for_each = { for name, function in local.deployed : name => function if function.public }

  name     = google_cloud_run_v2_service.this[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}
