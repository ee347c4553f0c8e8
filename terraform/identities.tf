# One service account per function, and three that are nobody's: who pushes, who publishes what comes
# later, and who deploys. Nothing here has a key: Google Cloud hands out tokens.
locals {
  accounts = merge(
    { for name, function in local.functions : name => "The function ${name}" },
    {
      step_job = "Steps above 540 s: does what step_worker does"
      pusher   = "Brings messages and ticks to the functions; its token is the only one they take"
      tasks    = "Publishes messages whose time has come"
    },
    var.repository == null ? {} : { deployer = "Builds and deploys; used by Cloud Build alone" },
  )
}

resource "google_service_account" "this" {
  for_each = local.accounts

  account_id   = "${local.prefix}-${replace(each.key, "_", "-")}"
  display_name = "pipelines ${var.environment}: ${replace(each.key, "_", " ")}"
  description  = each.value

  depends_on = [google_project_service.this]
}
