package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestConfigComplete(t *testing.T) {
	t.Setenv(DirVariable, "/lab")
	for name, test := range map[string]struct {
		config  Config
		want    Config
		wantErr string
	}{
		"defaults":       {Config{}, Config{Name: "lab", Nodes: 3, Dir: "/lab"}, ""},
		"all given":      {Config{Name: "a-1", Nodes: 5, Dir: "/x"}, Config{Name: "a-1", Nodes: 5, Dir: "/x"}, ""},
		"longest name":   {Config{Name: "abcdefghijklmnopqrst"}, Config{Name: "abcdefghijklmnopqrst", Nodes: 3, Dir: "/lab"}, ""},
		"name too long":  {Config{Name: "abcdefghijklmnopqrstu"}, Config{}, "small letters"},
		"path as name":   {Config{Name: "../x"}, Config{}, "small letters"},
		"dash at an end": {Config{Name: "a-"}, Config{}, "small letters"},
		"no node":        {Config{Nodes: -1}, Config{}, "use 1 to"},
		"too many nodes": {Config{Nodes: maxNodes + 1}, Config{}, "use 1 to"},
		"half a second":  {Config{NodeMonitor: NodeMonitor{Lease: 1500 * time.Millisecond}}, Config{}, "whole seconds"},
		"no time at all": {Config{NodeMonitor: NodeMonitor{Grace: -time.Second}}, Config{}, "0 or more"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.config.complete()
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("error %v, want one with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Progress = nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNodeMonitor(t *testing.T) {
	c := &Cluster{config: Config{NodeMonitor: NodeMonitor{
		Every: 500 * time.Millisecond, Grace: 2 * time.Second, Status: time.Second, Lease: time.Second,
	}}}
	var argv []string
	for _, service := range c.controlPlaneSpec().Services {
		if service.Name == "kube-controller-manager" {
			argv = service.Argv
		}
	}
	if want := []string{"--node-monitor-period=500ms", "--node-monitor-grace-period=2s"}; !cmp.Equal(argv[len(argv)-2:], want) {
		t.Errorf("kube-controller-manager runs as %v, want %v at its end", argv, want)
	}
	tuned, stock := kubeletConfig(c.config.NodeMonitor), kubeletConfig(NodeMonitor{})
	if tuned["nodeStatusUpdateFrequency"] != "1s" || tuned["nodeLeaseDurationSeconds"] != 1 {
		t.Errorf("the kubelet's configuration: %v", tuned)
	}
	for _, key := range []string{"nodeStatusUpdateFrequency", "nodeLeaseDurationSeconds"} {
		if value, found := stock[key]; found {
			t.Errorf("without a setting, %s is %v and not left to the kubelet", key, value)
		}
	}
}

func TestAddressesOfNodesDiffer(t *testing.T) {
	seen := map[string]int{gateway.Addr().String(): 0}
	for number := 1; number <= maxNodes; number++ {
		for _, address := range []string{nodeAddress(number).Addr().String(), podRange(number).String()} {
			if other, taken := seen[address]; taken {
				t.Errorf("nodes %d and %d share %s", other, number, address)
			}
			seen[address] = number
		}
	}
}

func TestSchedulerConfig(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want map[string]any
	}{
		"none": {"", map[string]any{
			"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
			"clientConnection": map[string]any{"kubeconfig": "/etc/kubernetes/scheduler.conf"},
			"leaderElection":   map[string]any{"leaderElect": false},
		}},
		"the user's other settings stay": {
			"kind: KubeSchedulerConfiguration\nparallelism: 4\nclientConnection: {qps: 7}\nleaderElection: {leaderElect: true, resourceName: x}\n",
			map[string]any{
				"kind": "KubeSchedulerConfiguration", "parallelism": 4.0,
				"clientConnection": map[string]any{"kubeconfig": "/etc/kubernetes/scheduler.conf", "qps": 7.0},
				"leaderElection":   map[string]any{"leaderElect": false, "resourceName": "x"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := schedulerConfig(temporaryFile(t, test.file))
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := yaml.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := schedulerConfig(temporaryFile(t, "kind: Pod\n")); err == nil || !strings.Contains(err.Error(), "KubeSchedulerConfiguration") {
		t.Errorf("another kind: %v, want an error that names the right one", err)
	}
}

func TestContainerdConfigAppendsDropIns(t *testing.T) {
	dropIn := "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.x]\n  runtime_type = \"io.containerd.runc.v2\"\n"
	text, err := containerdConfig([]string{temporaryFile(t, dropIn)})
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, containerdBase) || !strings.Contains(got, "runtimes.x]") {
		t.Errorf("configuration:\n%s", got)
	}
	// A key twice is an error to containerd.
	if n := strings.Count(got, "version ="); n != 1 {
		t.Errorf("the version is given %d times:\n%s", n, got)
	}
}

func TestAddImageKeepsOrder(t *testing.T) {
	c := &Cluster{paths: paths{t.TempDir(), "x"}}
	if err := os.MkdirAll(c.paths.images(), 0o755); err != nil {
		t.Fatal(err)
	}
	a, b := temporaryFile(t, "a"), temporaryFile(t, "b")
	for _, step := range []struct{ add, want string }{{a, "a"}, {a, "a"}, {b, "ab"}, {a, "ba"}, {a, "ba"}, {b, "ab"}} {
		if err := c.addImage(step.add); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(c.paths.images() + "/*.tar")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got += string(text)
		}
		if got != step.want {
			t.Errorf("nodes load %q, want %q", got, step.want)
		}
	}
}

// temporaryFile is a file with the content, or no file if there is none.
func temporaryFile(t *testing.T, content string) string {
	t.Helper()
	if content == "" {
		return ""
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
