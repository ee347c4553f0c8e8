# The key that wraps the data keys of organizations. Whoever destroys a version destroys every credential
# that it wrapped: docs/operations.md tells how one is retired.
resource "google_kms_key_ring" "this" {
  name     = local.prefix
  location = var.region

  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key" "data_keys" {
  name                       = "data-keys"
  key_ring                   = google_kms_key_ring.this.id
  purpose                    = "ENCRYPT_DECRYPT"
  rotation_period            = "7776000s" # 90 days
  destroy_scheduled_duration = "2592000s" # 30 days to find out who still needed it

  lifecycle {
    prevent_destroy = true
  }
}
