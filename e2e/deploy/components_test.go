package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/binaries"
)

// bucketOverlay uses the component as the comment in it says.
const bucketOverlay = `
resources: [manifests]
components: [manifests/components/bucket]
configMapGenerator:
  - name: lifeboat-bucket
    namespace: lifeboat-system
    literals: [endpoint=s3.example.org, bucket=checkpoints, region=, prefix=cluster-a]
secretGenerator:
  - name: lifeboat-bucket
    namespace: lifeboat-system
    envs: [bucket.env]
`

// TestBucketComponent builds the manifests with the bucket's component, by kubectl.
func TestBucketComponent(t *testing.T) {
	programs, err := binaries.Kubernetes(t.Context(), func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"kustomization.yaml": bucketOverlay,
		"bucket.env":         "AWS_ACCESS_KEY_ID=somebody\nAWS_SECRET_ACCESS_KEY=something\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "manifests"), os.DirFS("../../manifests")); err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	command := exec.CommandContext(t.Context(), filepath.Join(programs, "kubectl"), "kustomize", dir)
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		t.Fatalf("kubectl kustomize: %v\n%s", err, complaint.Bytes())
	}
	var agent *corev1.Container
	names := map[string]string{} // of the generated objects, which have a hash of their content
	for _, document := range strings.Split(string(output), "\n---\n") {
		var object appsv1.DaemonSet
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if strings.HasPrefix(object.Name, "lifeboat-bucket-") {
			names[object.Kind] = object.Name
		}
		if object.Kind == "DaemonSet" && object.Name == "lifeboat-checkpointer" {
			containers := object.Spec.Template.Spec.Containers
			if len(containers) != 2 {
				t.Errorf("the pod has %d containers, not 2", len(containers))
			}
			agent = &containers[slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == "agent" })]
		}
	}
	if agent == nil || names["ConfigMap"] == "" || names["Secret"] == "" {
		t.Fatalf("objects are missing: %v in\n%s", names, output)
	}
	if !slices.Contains(agent.Args, "--bucket=$(BUCKET)") || !slices.Equal(agent.Command, []string{"/lifeboat-checkpointer", "agent"}) {
		t.Errorf("the agent runs %v %v", agent.Command, agent.Args)
	}
	given := map[string]bool{}
	for _, variable := range agent.Env {
		given[variable.Name] = true
		if source := variable.ValueFrom.ConfigMapKeyRef; source != nil && source.Name != names["ConfigMap"] {
			t.Errorf("%s comes from the ConfigMap %s", variable.Name, source.Name)
		}
		if source := variable.ValueFrom.SecretKeyRef; source != nil && source.Name != names["Secret"] {
			t.Errorf("%s comes from the Secret %s", variable.Name, source.Name)
		}
	}
	for _, name := range []string{"NODE_NAME", "NODE_IP", "BUCKET", "BUCKET_ENDPOINT", "BUCKET_REGION", "BUCKET_PREFIX", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if !given[name] {
			t.Errorf("the agent has no variable %s", name)
		}
	}
}
