// Package schemas makes the JSON schemas that kubeconform checks manifests by, from
// what an API server goes by itself: Kubernetes' OpenAPI document and
// CustomResourceDefinitions. They are strict: a field that is not there is refused.
package schemas
