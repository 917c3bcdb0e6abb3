package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// The annotations of a container's configuration. containerd copies the pod's
// own ones because of its setting pod_annotations.
const (
	annotationFailover   = "lifeboat.dev/failover"
	annotationType       = "io.kubernetes.cri.container-type"
	annotationName       = "io.kubernetes.cri.container-name"
	annotationSandbox    = "io.kubernetes.cri.sandbox-id"
	annotationPod        = "io.kubernetes.cri.sandbox-name"
	annotationNamespace  = "io.kubernetes.cri.sandbox-namespace"
	annotationUID        = "io.kubernetes.cri.sandbox-uid"
	annotationCRIUConfig = "org.criu.config"
)

// configuration is the part of a bundle's config.json that is needed here.
type configuration struct {
	Annotations map[string]string `json:"annotations"`
	Root        struct {
		Path string `json:"path"`
	} `json:"root"`
	Linux struct {
		CgroupsPath string `json:"cgroupsPath"`
		Namespaces  []struct {
			Kind string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"linux"`
}

// bundle is a container's OCI bundle.
type bundle struct {
	folder string
	raw    []byte // config.json as it was found
	config configuration
}

// readBundle reads a bundle. It returns nil for a container that is not protected.
func readBundle(folder string) (*bundle, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	b := &bundle{folder: folder}
	if b.raw, err = os.ReadFile(b.file()); err != nil {
		return nil, err
	}
	if !bytes.Contains(b.raw, []byte(annotationFailover)) {
		return nil, nil
	}
	if err := json.Unmarshal(b.raw, &b.config); err != nil {
		return nil, fmt.Errorf("read %s: %w", b.file(), err)
	}
	a := b.config.Annotations
	if a[annotationFailover] != "true" || a[annotationType] != "container" {
		return nil, nil
	}
	return b, nil
}

func (b *bundle) file() string { return filepath.Join(b.folder, "config.json") }

// rootfs is the container's root file system.
func (b *bundle) rootfs() string {
	if filepath.IsAbs(b.config.Root.Path) {
		return b.config.Root.Path
	}
	return filepath.Join(b.folder, b.config.Root.Path)
}

// container names the container as its annotations do.
func (b *bundle) container(id string) (client.Container, error) {
	a := b.config.Annotations
	c := client.Container{
		ID: id, Name: a[annotationName], Namespace: a[annotationNamespace],
		PodName: a[annotationPod], PodUID: a[annotationUID], SandboxID: a[annotationSandbox],
	}
	if c.Name == "" || c.Namespace == "" || c.PodName == "" || c.PodUID == "" {
		return c, errors.New("the annotations of the container runtime do not say which pod's container this is")
	}
	return c, nil
}

// namespace is the path of a namespace that the container joins, or "".
func (b *bundle) namespace(kind string) string {
	for _, ns := range b.config.Linux.Namespaces {
		if ns.Kind == kind {
			return ns.Path
		}
	}
	return ""
}

// setCRIUConfig has runc restore with a CRIU configuration file.
func (b *bundle) setCRIUConfig(path string) error {
	var config map[string]json.RawMessage
	if err := json.Unmarshal(b.raw, &config); err != nil {
		return err
	}
	annotations := map[string]string{}
	for key, value := range b.config.Annotations {
		annotations[key] = value
	}
	annotations[annotationCRIUConfig] = path
	raw, err := json.Marshal(annotations)
	if err != nil {
		return err
	}
	config["annotations"] = raw
	changed, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return replaceFile(b.file(), changed)
}

// reset writes config.json as it was found.
func (b *bundle) reset() error { return replaceFile(b.file(), b.raw) }

// replaceFile writes a file whole or not at all.
func replaceFile(name string, content []byte) error {
	mode := os.FileMode(0o600)
	if info, err := os.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	temporary, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(mode), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), name)
}
