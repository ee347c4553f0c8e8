# Steps with a timeout above 540 s, which no push request lives long enough for. step_worker starts an
# execution for each attempt, with the attempt as its arguments. It is never tried again here: the engine
# counts attempts, and starts the next one itself.
locals {
  long_steps     = "${local.prefix}-step-job"
  long_steps_job = "projects/${var.project}/locations/${var.region}/jobs/${local.long_steps}" # known before the job is
}

resource "google_cloud_run_v2_job" "step" {
  count = var.image == null ? 0 : 1

  name                = local.long_steps
  location            = var.region
  deletion_protection = var.deletion_protection

  template {
    template {
      service_account = google_service_account.this["step_job"].email
      timeout         = "86400s" # the most there is; the step's own timeout comes first
      max_retries     = 0

      containers {
        image   = var.image
        command = ["python", "-m", "functions.step_job"]

        resources {
          limits = { cpu = var.long_step.cpu, memory = var.long_step.memory }
        }

        dynamic "env" {
          for_each = local.settings
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
      }
    }
  }

  depends_on = [
    google_project_service.this,
    google_secret_manager_secret_iam_member.accounts,
  ]
}

resource "google_cloud_run_v2_job_iam_member" "starter" {
  count = length(google_cloud_run_v2_job.step)

  name     = google_cloud_run_v2_job.step[0].name
  location = var.region
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = google_service_account.this["step_worker"].member
}
