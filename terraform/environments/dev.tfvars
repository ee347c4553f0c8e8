# A system to try things on: nothing is protected, nobody is woken up.
environment         = "dev"
region              = "europe-west1"
location            = "EU"
deletion_protection = false

settings = {
  PIPELINES_LOG = "debug"
}

functions = {
  step_worker = { max_instances = 5 }
  coordinator = { max_instances = 3 }
  api         = { max_instances = 2 }
}
