package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Patience is how long Lifeboat may take to come up.
const Patience = 3 * time.Minute

// fieldOwner is who the API server takes the manifests' fields to be from.
const fieldOwner = "lifeboat-deploy"

// imageAnnotation on a pod template makes pods start anew when the image behind
// the same name is another.
const imageAnnotation = "e2e.lifeboat.dev/image"

// Lifeboat installs Lifeboat in a running cluster and returns when it works:
// every node has its Fence and CRIU, and a protected pod is admitted as one. The
// images are loaded if the cluster was not started with them.
func Lifeboat(ctx context.Context, c *cluster.Cluster, b Built, progress func(step string)) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	progress("installing Lifeboat")
	if err := b.load(ctx, c); err != nil {
		return err
	}
	if err := apply(ctx, config, filepath.Join(b.Module, "manifests"), b.Lifeboat); err != nil {
		return err
	}
	api, err := observe.NewClient(config)
	if err != nil {
		return err
	}
	return Whole(ctx, c, api, progress)
}

// apply applies the manifests of a folder in the order of its kustomization.
func apply(ctx context.Context, config *rest.Config, folder, archive string) error {
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{}
	api, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("build the client: %w", err)
	}
	sum, err := digest(archive)
	if err != nil {
		return err
	}
	files, err := resources(folder)
	if err != nil {
		return err
	}
	for _, file := range files {
		objects, err := decode(filepath.Join(folder, file))
		if err != nil {
			return err
		}
		for _, object := range objects {
			if kind := object.GetKind(); kind == "Deployment" || kind == "DaemonSet" {
				if err := unstructured.SetNestedField(object.Object, sum, "spec", "template", "metadata", "annotations", imageAnnotation); err != nil {
					return fmt.Errorf("%s: annotate %s: %w", file, object.GetName(), err)
				}
			}
			if err := applyOne(ctx, api, object); err != nil {
				return fmt.Errorf("apply %s %s of %s: %w", object.GetKind(), object.GetName(), file, err)
			}
		}
	}
	return nil
}

func applyOne(ctx context.Context, api client.Client, object *unstructured.Unstructured) error {
	err := api.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldOwner), client.ForceOwnership)
	if err != nil || object.GetKind() != "CustomResourceDefinition" {
		return err
	}
	// What follows may be of its kind.
	return observe.Until(ctx, "the kind is served", func(ctx context.Context) (bool, string, error) {
		seen := object.DeepCopy()
		if err := api.Get(ctx, client.ObjectKeyFromObject(object), seen); err != nil {
			return false, "", err
		}
		var crd apiextensions.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(seen.Object, &crd); err != nil {
			return false, "", err
		}
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensions.Established && condition.Status == apiextensions.ConditionTrue {
				return true, "", nil
			}
		}
		return false, fmt.Sprint(crd.Status.Conditions), nil
	})
}

// resources lists the files that a folder's kustomization names.
func resources(folder string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read the list of manifests: %w", err)
	}
	var kustomization struct {
		Resources []string `json:"resources"`
	}
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		return nil, fmt.Errorf("read the list of manifests: %w", err)
	}
	return kustomization.Resources, nil
}

// decode reads the objects of a file.
func decode(file string) ([]*unstructured.Unstructured, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", file, err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("identify the image: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("identify the image: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// NodeNames are the names of a cluster's nodes.
func NodeNames(c *cluster.Cluster) ([]string, error) {
	nodes, err := c.Nodes()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(nodes))
	for i, node := range nodes {
		names[i] = node.Name
	}
	return names, nil
}
