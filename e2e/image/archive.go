// Package image builds container image archives without a container engine and without
// a registry: from files, from Go programs and from Debian packages. The archives are
// Docker archives, which containerd imports.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Config says how containers of an image are run by default.
type Config struct {
	Name       string   // the full reference, as "registry.k8s.io/pause:3.8"
	Entrypoint []string // the program and its first arguments
	Cmd        []string // its further arguments, which a pod may replace
	Env        []string // "KEY=value"; PATH is set if it is not given
	WorkingDir string
	User       string // "uid" or "uid:gid"; root if empty
}

// A File is put into an image.
type File struct {
	Path   string      // where in the image, absolute
	Source string      // the host's file with the content
	Mode   fs.FileMode // permission bits; the source's if zero
}

// FromFiles writes an image of these files alone to the archive.
func FromFiles(archive string, c Config, files ...File) error {
	layer, err := os.CreateTemp(filepath.Dir(archive), ".layer-")
	if err != nil {
		return fmt.Errorf("build image %s: %w", c.Name, err)
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	if err := writeLayer(layer, files); err != nil {
		return fmt.Errorf("build image %s: %w", c.Name, err)
	}
	return Write(archive, c, layer.Name())
}

// FromBinary writes an image of one static program to the archive. The program lies in
// the image's root under its own name and is the entrypoint.
func FromBinary(archive, name, binary string, env ...string) error {
	path := "/" + filepath.Base(binary)
	return FromFiles(archive, Config{Name: name, Entrypoint: []string{path}, Env: env}, File{Path: path, Source: binary, Mode: 0o755})
}

// Write writes an image of layers, lowest first, to the archive. Layers are
// uncompressed tar files. The archive appears whole or not at all.
func Write(archive string, c Config, layers ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build image %s: %w", c.Name, err)
		}
	}()
	if !strings.Contains(c.Name, "/") || !strings.Contains(c.Name[strings.LastIndex(c.Name, "/"):], ":") {
		return fmt.Errorf("its name must be a full reference with registry and tag, as \"lifeboat.dev/counter:dev\"")
	}
	out, err := os.CreateTemp(filepath.Dir(archive), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	w := tar.NewWriter(out)

	var diffIDs, names []string
	for _, layer := range layers {
		sum, err := digest(layer)
		if err != nil {
			return err
		}
		name := sum + ".tar"
		if err := addFile(w, name, layer); err != nil {
			return err
		}
		diffIDs, names = append(diffIDs, "sha256:"+sum), append(names, name)
	}
	config, err := json.Marshal(c.encode(diffIDs))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{c.Name}, "Layers": names}})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{configName: config, "manifest.json": manifest} {
		if err := add(w, name, bytes.NewReader(content), int64(len(content))); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), archive)
}

// encode is the image configuration of the OCI image specification.
func (c Config) encode(diffIDs []string) any {
	env := c.Env
	hasPath := false
	for _, e := range env {
		hasPath = hasPath || strings.HasPrefix(e, "PATH=")
	}
	if !hasPath {
		env = append([]string{defaultPath}, env...)
	}
	type config struct {
		Entrypoint []string `json:",omitempty"`
		Cmd        []string `json:",omitempty"`
		Env        []string `json:",omitempty"`
		WorkingDir string   `json:",omitempty"`
		User       string   `json:",omitempty"`
	}
	return map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       config{c.Entrypoint, c.Cmd, env, c.WorkingDir, c.User},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": diffIDs},
	}
}

// writeLayer writes files and their parent folders as a layer. It holds no times and no
// owners, so that the same files give the same layer.
func writeLayer(out io.Writer, files []File) error {
	w := tar.NewWriter(out)
	made := map[string]bool{".": true, "/": true}
	for _, file := range files {
		if !filepath.IsAbs(file.Path) {
			return fmt.Errorf("file %q in the image: want an absolute path", file.Path)
		}
		path := strings.TrimPrefix(filepath.Clean(file.Path), "/")
		if err := addParents(w, filepath.Dir(path), made); err != nil {
			return err
		}
		info, err := os.Stat(file.Source)
		if err != nil {
			return err
		}
		mode := file.Mode
		if mode == 0 {
			mode = info.Mode().Perm()
		}
		source, err := os.Open(file.Source)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: info.Size(), Mode: int64(mode.Perm())})
		if err == nil {
			_, err = io.Copy(w, source)
		}
		if err = errors.Join(err, source.Close()); err != nil {
			return fmt.Errorf("add %s: %w", file.Path, err)
		}
	}
	return w.Close()
}

func addParents(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := addParents(w, filepath.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func addFile(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return add(w, name, f, info.Size())
}

func add(w *tar.Writer, name string, content io.Reader, size int64) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(w, content)
	return err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
