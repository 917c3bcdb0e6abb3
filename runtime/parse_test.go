package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

func TestParse(t *testing.T) {
	shim := []string{"--root", "/run/containerd/runc/k8s.io", "--log", "/b/log.json", "--log-format", "json"}
	tests := map[string]struct {
		args  []string
		want  arguments
		runcs bool // whether the call is runc's alone
	}{
		"as the shim does": {
			args: append(append([]string{}, shim...), "create", "--bundle", "/b", "--pid-file", "/b/init.pid", "c1"),
			want: arguments{global: shim, command: "create", id: "c1", root: "/run/containerd/runc/k8s.io", log: "/b/log.json", json: true, bundle: "/b", pidFile: "/b/init.pid"},
		},
		"equals signs": {
			args: []string{"--root=/r", "-log=/l", "--systemd-cgroup", "--debug=true", "--rootless=auto", "create", "-b=/b", "--no-pivot", "--console-socket=/s", "--preserve-fds=1", "c1"},
			want: arguments{global: []string{"--root=/r", "-log=/l", "--systemd-cgroup", "--debug=true", "--rootless=auto"}, command: "create", id: "c1", root: "/r", log: "/l", bundle: "/b", console: "/s", noPivot: true},
		},
		"defaults":         {args: []string{"create", "c1"}, want: arguments{command: "create", id: "c1", root: "/run/runc", bundle: "."}},
		"end of flags":     {args: []string{"start", "--", "c1"}, want: arguments{command: "start", id: "c1", root: "/run/runc", bundle: "."}},
		"delete":           {args: []string{"delete", "--force", "c1"}, want: arguments{command: "delete", id: "c1", root: "/run/runc", bundle: ".", force: true}},
		"not forced":       {args: []string{"delete", "-f=false", "c1"}, want: arguments{command: "delete", id: "c1", root: "/run/runc", bundle: "."}},
		"another command":  {args: []string{"state", "c1"}, runcs: true},
		"version":          {args: []string{"--version"}, runcs: true},
		"unknown global":   {args: []string{"--new", "x", "create", "c1"}, runcs: true},
		"unknown flag":     {args: []string{"create", "--new", "c1"}, runcs: true},
		"no ID":            {args: []string{"create", "--bundle", "/b"}, runcs: true},
		"two IDs":          {args: []string{"start", "c1", "c2"}, runcs: true},
		"flag after ID":    {args: []string{"create", "c1", "--bundle", "/b"}, runcs: true},
		"no value":         {args: []string{"create", "--bundle"}, runcs: true},
		"ID with a slash":  {args: []string{"create", "../c1"}, runcs: true},
		"nothing":          {runcs: true},
		"help":             {args: []string{"create", "--help"}, runcs: true},
		"empty ID":         {args: []string{"start", ""}, runcs: true},
		"parent folder ID": {args: []string{"start", ".."}, runcs: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parse(test.args)
			if (err != nil) != test.runcs {
				t.Fatalf("parse: %v", err)
			}
			if err != nil {
				return
			}
			if len(got.global) == 0 {
				got.global = nil
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(arguments{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseNeverPanics matters because every container of the node comes by here.
func TestParseNeverPanics(t *testing.T) {
	word := rapid.SampledFrom([]string{"", "-", "--", "---", "=", "-=", "--root", "--root=", "--log", "create", "start", "delete", "--bundle", "-b", "-b=x", "c1", "--force", "--no-pivot=", "\x00"})
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.SliceOfN(word, 0, 8).Draw(t, "args")
		a, err := parse(args)
		if err == nil && (a.id == "" || a.command == "") {
			t.Errorf("parse(%q) = %+v", args, a)
		}
	})
}

func TestReadBundle(t *testing.T) {
	const annotations = `"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"main","io.kubernetes.cri.sandbox-id":"s1",
		"io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"u1"`
	tests := map[string]struct {
		config    string
		protected bool
		wrong     bool
		container client.Container
		unnamed   bool
	}{
		"protected": {
			config:    `{"annotations":{"lifeboat.dev/failover":"true",` + annotations + `},"linux":{"namespaces":[{"type":"pid"},{"type":"uts","path":"/proc/7/ns/uts"}]}}`,
			protected: true, container: client.Container{ID: "c1", Name: "main", Namespace: "shop", PodName: "web-0", PodUID: "u1", SandboxID: "s1"},
		},
		"not protected":   {config: `{"annotations":{` + annotations + `}}`},
		"switched off":    {config: `{"annotations":{"lifeboat.dev/failover":"false",` + annotations + `}}`},
		"sandbox":         {config: `{"annotations":{"lifeboat.dev/failover":"true","io.kubernetes.cri.container-type":"sandbox"}}`},
		"of another tool": {config: `{"annotations":{"lifeboat.dev/failover":"true"}}`},
		"in a value":      {config: `{"annotations":{"x":"lifeboat.dev/failover"}}`},
		"unnamed":         {config: `{"annotations":{"lifeboat.dev/failover":"true","io.kubernetes.cri.container-type":"container"}}`, protected: true, unnamed: true},
		"malformed":       {config: `{"annotations":{"lifeboat.dev/failover":`, wrong: true},
		"wrong kind":      {config: `{"annotations":["lifeboat.dev/failover"]}`, wrong: true},
		"no annotations":  {config: `{}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := readBundle(dir)
			if (err != nil) != test.wrong || (b != nil) != test.protected {
				t.Fatalf("readBundle = %+v, %v", b, err)
			}
			if b == nil {
				return
			}
			container, err := b.container("c1")
			if (err != nil) != test.unnamed {
				t.Fatalf("container: %v", err)
			}
			if err == nil {
				if diff := cmp.Diff(test.container, container); diff != "" {
					t.Error(diff)
				}
				if b.namespace("uts") != "/proc/7/ns/uts" || b.namespace("pid") != "" || b.namespace("net") != "" {
					t.Error("wrong namespaces")
				}
			}
		})
	}
}

func TestSetCRIUConfigKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	const config = `{"ociVersion":"1.1.0","annotations":{"lifeboat.dev/failover":"true","io.kubernetes.cri.container-type":"container","number":"1"},"process":{"rlimit":18446744073709551615}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o640); err != nil {
		t.Fatal(err)
	}
	b, err := readBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.setCRIUConfig("/w/restore.conf"); err != nil {
		t.Fatal(err)
	}
	const want = `{"annotations":{"io.kubernetes.cri.container-type":"container","lifeboat.dev/failover":"true","number":"1","org.criu.config":"/w/restore.conf"},"ociVersion":"1.1.0","process":{"rlimit":18446744073709551615}}`
	got, err := os.ReadFile(b.file())
	if err != nil || string(got) != want {
		t.Errorf("config.json is\n%s\nwant\n%s\n%v", got, want, err)
	}
	if err := b.reset(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b.file()); err != nil || string(got) != config {
		t.Errorf("after reset config.json is %s, %v", got, err)
	}
	if info, err := os.Stat(b.file()); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("after reset its mode is %v, %v", info.Mode(), err)
	}
}

func TestFindOverlay(t *testing.T) {
	const mountinfo = `30 1 0:9 / /run rw - tmpfs tmpfs rw
40 30 0:50 / /run/b/rootfs rw,nodev,relatime shared:3 - overlay overlay rw,lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/9/fs,workdir=/s/9/work,index=off
41 30 0:51 / /run/t/rootfs rw - tmpfs tmpfs rw
42 30 0:52 / /run/v/rootfs ro - overlay overlay ro,lowerdir=/s/2/fs:/s/1/fs
`
	got, err := findOverlay(mountinfo, "/run/b/rootfs")
	want := overlay{
		flags:   mountFlags["nodev"] | mountFlags["relatime"],
		options: "lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/9/fs,workdir=/s/9/work,index=off",
		upper:   "/s/9/fs", work: "/s/9/work",
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(overlay{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, path := range []string{"/run/none", "/run/t/rootfs", "/run/v/rootfs"} {
		if got, err := findOverlay(mountinfo, path); err == nil {
			t.Errorf("findOverlay(%s) = %+v", path, got)
		}
	}
}
