package command

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
)

func parseBucket(t *testing.T, args []string) (*bucket.Config, error) {
	t.Helper()
	cmd := &cobra.Command{}
	config := bucketFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return config()
}

func TestBucketFlags(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want *bucket.Config
		err  string
	}{
		"none": {},
		"all that it takes": {
			args: []string{"--bucket=b", "--bucket-endpoint=s3.example.org", "--bucket-region=eu", "--bucket-prefix=p", "--bucket-ca-file=f"},
			want: &bucket.Config{Bucket: "b", Endpoint: "s3.example.org", Region: "eu", Prefix: "p", CAFile: "f"},
		},
		"without TLS":        {args: []string{"--bucket=b", "--bucket-endpoint=s:80", "--bucket-insecure"}, want: &bucket.Config{Bucket: "b", Endpoint: "s:80", Insecure: true}},
		"no bucket":          {args: []string{"--bucket-endpoint=s", "--bucket-prefix=p"}, err: "--bucket-endpoint, --bucket-prefix without a bucket"},
		"no server":          {args: []string{"--bucket=b"}, err: "--bucket-endpoint"},
		"TLS and no TLS":     {args: []string{"--bucket=b", "--bucket-endpoint=s", "--bucket-insecure", "--bucket-ca-file=f"}, err: "leave one of them out"},
		"empty is not given": {args: []string{"--bucket=b", "--bucket-endpoint=s", "--bucket-region=", "--bucket-prefix="}, want: &bucket.Config{Bucket: "b", Endpoint: "s"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseBucket(t, c.args)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("want an error with %q, got %v", c.err, err)
				}
				return
			}
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(bucket.Config{})); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// The component of the manifests gives flags that there are, and defines each variable that they use.
func TestBucketComponent(t *testing.T) {
	text, err := os.ReadFile("../../manifests/components/bucket/checkpointer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var patch appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &patch); err != nil {
		t.Fatal(err)
	}
	agent := patch.Spec.Template.Spec.Containers[0]
	var expand []string
	secret := map[string]bool{}
	for _, variable := range agent.Env {
		if source := variable.ValueFrom.ConfigMapKeyRef; source != nil {
			expand = append(expand, "$("+variable.Name+")", source.Key)
		} else {
			secret[variable.Name] = true
		}
	}
	args := agent.Args
	for i := range args {
		args[i] = strings.NewReplacer(expand...).Replace(args[i])
	}
	got, err := parseBucket(t, args)
	if err != nil {
		t.Fatal(err)
	}
	want := &bucket.Config{Bucket: "bucket", Endpoint: "endpoint", Region: "region", Prefix: "prefix"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(bucket.Config{})); diff != "" {
		t.Errorf("the component's configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"AWS_ACCESS_KEY_ID": true, "AWS_SECRET_ACCESS_KEY": true}, secret); diff != "" {
		t.Errorf("the component's credentials (-want +got):\n%s", diff)
	}
}
