# The manifests are the one description of what Lifeboat consists of. This module
# applies those that manifests/kustomization.yaml lists, with another image.
locals {
  folder = coalesce(var.manifests, "${path.module}/../manifests")
  files  = yamldecode(file("${local.folder}/kustomization.yaml")).resources

  texts = [
    for name in local.files :
    replace(file("${local.folder}/${name}"), "ghcr.io/lifeboat-dev/lifeboat:dev", var.image)
  ]

  # One text for each object: a file may hold several, divided by lines of "---".
  objects = {
    for text in flatten([for text in local.texts : split("\n---\n", "\n${text}")]) :
    join("/", [
      yamldecode(text).kind,
      try(yamldecode(text).metadata.namespace, ""),
      yamldecode(text).metadata.name,
    ]) => text
    if trimspace(text) != ""
  }

  # What others need to be there first.
  first = { for name, text in local.objects : name => text if can(regex("^(Namespace|CustomResourceDefinition)/", name)) }
  rest  = { for name, text in local.objects : name => text if !contains(keys(local.first), name) }
}

resource "kubernetes_manifest" "first" {
  for_each = local.first
  manifest = yamldecode(each.value)
}

resource "kubernetes_manifest" "rest" {
  for_each   = local.rest
  manifest   = yamldecode(each.value)
  depends_on = [kubernetes_manifest.first]

  # The watcher writes the certificate of its webhook. Null is the provider's default.
  computed_fields = startswith(each.key, "MutatingWebhookConfiguration/") ? ["metadata.annotations", "metadata.labels", "webhooks"] : null
}
