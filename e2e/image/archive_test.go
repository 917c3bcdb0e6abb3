package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFromFiles(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte("#!"), 0o640); err != nil {
		t.Fatal(err)
	}
	config := Config{Name: "lifeboat.dev/x:dev", Entrypoint: []string{"/opt/bin/x"}, Cmd: []string{"run"}, Env: []string{"A=1"}, User: "1000"}
	files := []File{{Path: "/opt/bin/x", Source: source, Mode: 0o755}, {Path: "/opt/y", Source: source}}
	first, second := filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar")
	for _, archive := range []string{first, second} {
		if err := FromFiles(archive, config, files...); err != nil {
			t.Fatal(err)
		}
	}
	content := unpack(t, first)

	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(content["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 || !cmp.Equal(manifest[0].RepoTags, []string{config.Name}) {
		t.Fatalf("manifest: %+v", manifest)
	}
	var encoded struct {
		Architecture string
		Config       struct {
			Entrypoint, Cmd, Env []string
			User                 string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(content[manifest[0].Config], &encoded); err != nil {
		t.Fatal(err)
	}
	layer := manifest[0].Layers[0]
	if want := []string{"sha256:" + strings.TrimSuffix(layer, ".tar")}; !cmp.Equal(want, encoded.RootFS.DiffIDs) {
		t.Errorf("layers %v, want %v", encoded.RootFS.DiffIDs, want)
	}
	if diff := cmp.Diff([]string{defaultPath, "A=1"}, encoded.Config.Env); diff != "" {
		t.Error(diff)
	}
	if encoded.Config.User != "1000" || !cmp.Equal(encoded.Config.Entrypoint, config.Entrypoint) || !cmp.Equal(encoded.Config.Cmd, config.Cmd) {
		t.Errorf("configuration: %+v", encoded.Config)
	}

	var names []string
	r := tar.NewReader(bytes.NewReader(content[layer]))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.FileInfo().Mode().String()+" "+header.Name)
	}
	if diff := cmp.Diff([]string{"drwxr-xr-x opt/", "drwxr-xr-x opt/bin/", "-rwxr-xr-x opt/bin/x", "-rw-r----- opt/y"}, names); diff != "" {
		t.Error(diff)
	}
	if _, same := unpack(t, second)[layer]; !same {
		t.Error("the same files gave another layer")
	}
}

func TestWriteRefusesIncompleteNames(t *testing.T) {
	for _, name := range []string{"", "x", "x:dev", "lifeboat.dev/x", "localhost:5000/x"} {
		archive := filepath.Join(t.TempDir(), "x.tar")
		if err := FromFiles(archive, Config{Name: name}); err == nil {
			t.Errorf("%q was accepted", name)
		}
		if _, err := os.Stat(archive); err == nil {
			t.Errorf("%q: an archive was written", name)
		}
	}
}

func TestFromDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages: not with -short")
	}
	cache := t.TempDir()
	build := func() string {
		archive, err := FromDebian(t.Context(), cache, "lifeboat.dev/busybox:dev", []string{"busybox-static"}, []string{"busybox", "sh"})
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	archive := build()
	info, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	var manifest []struct{ Layers []string }
	content := unpack(t, archive)
	if err := json.Unmarshal(content["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	r := tar.NewReader(bytes.NewReader(content[manifest[0].Layers[0]]))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(header.Name, "./")] = true
	}
	for _, name := range []string{"usr/bin/busybox", "usr/bin/bash"} {
		if !found[name] {
			t.Errorf("the image has no %s", name)
		}
	}
	if again, err := os.Stat(build()); err != nil || !again.ModTime().Equal(info.ModTime()) {
		t.Errorf("the archive was built again (%v)", err)
	}
	if rest, err := filepath.Glob(cache + "/images/.*"); err != nil || len(rest) > 0 {
		t.Errorf("left in the cache: %v (%v)", rest, err)
	}
}

func TestModule(t *testing.T) {
	here, err := Module("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(here, "e2e/image/pause/main.go")); err != nil {
		t.Errorf("%s is not the module: %v", here, err)
	}
	if found, err := Module(t.TempDir()); err == nil {
		t.Errorf("found %s outside the repository", found)
	}
}

func unpack(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := map[string][]byte{}
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content
		}
		if err != nil {
			t.Fatal(err)
		}
		if content[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
