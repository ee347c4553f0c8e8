# Where images are kept, and what builds and deploys them.
resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:images hold no data of organizations; Google's own encryption at rest is enough
  repository_id = local.prefix
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the functions of ${local.prefix}"

  docker_config {
    immutable_tags = true
  }

  # What can be gone back to: a deployed digest must be there.
  cleanup_policies {
    id     = "keep the newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 50
    }
  }

  cleanup_policies {
    id     = "delete the old"
    action = "DELETE"
    condition {
      older_than = "${90 * 86400}s"
    }
  }

  depends_on = [google_project_service.this]
}

locals {
  # cloudbuild.yaml runs as the deployer: it applies this folder, so it may make what stands in it.
  deploys = var.repository == null ? toset([]) : toset([
    "roles/artifactregistry.admin",
    "roles/bigquery.user",
    "roles/cloudbuild.builds.editor",
    "roles/cloudkms.admin",
    "roles/cloudscheduler.admin",
    "roles/cloudtasks.admin",
    "roles/datastore.owner",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.serviceAccountUser",
    "roles/logging.configWriter",
    "roles/logging.logWriter",
    "roles/monitoring.editor",
    "roles/pubsub.admin",
    "roles/resourcemanager.projectIamAdmin",
    "roles/run.admin",
    "roles/secretmanager.admin",
    "roles/serviceusage.serviceUsageAdmin",
    "roles/storage.admin",
  ])
}

resource "google_project_iam_member" "deployer" {
  for_each = local.deploys

  project = var.project
  role    = each.key
  member  = google_service_account.this["deployer"].member
}

resource "google_cloudbuild_trigger" "deploy" {
  count = var.repository == null ? 0 : 1

  name            = "${local.prefix}-deploy"
  description     = "Tests, builds and deploys ${var.repository.branch} to ${var.environment}"
  location        = var.region
  filename        = "cloudbuild.yaml"
  service_account = google_service_account.this["deployer"].id

  repository_event_config {
    repository = var.repository.name
    push {
      branch = "^${var.repository.branch}$"
    }
  }

  # With an approval the plan is what is read before it: every build prints one, and applies that one.
  approval_config {
    approval_required = var.repository.approval
  }

  substitutions = {
    _ENVIRONMENT  = var.environment
    _REGION       = var.region
    _REPOSITORY   = google_artifact_registry_repository.images.repository_id
    _STATE_BUCKET = var.state_bucket
  }
}
