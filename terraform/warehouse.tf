# Datasets are the engine's: one for each organization, made with its first load, in var.location. What it
# needs beside them is a bucket that large loads pass through.
resource "google_storage_bucket" "staging" {
  #checkov:skip=CKV_GCP_62:files live for minutes; Cloud Audit Logs say who read them
  #checkov:skip=CKV_GCP_78:what is deleted here must be gone
  name                        = "${var.project}-${local.prefix}-staging"
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true # nothing in it is worth keeping for a day

  # A load deletes what it staged; a killed one cannot.
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  depends_on = [google_project_service.this]
}
