package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// pod is the containers of one pod that are registered on the node.
type pod struct {
	// name is the pod's namespace and name, for people.
	name string
	// group is what is frozen and killed: the pod's cgroup.
	group      cgroup.Group
	containers []container
}

// container is one registered container.
type container struct {
	group cgroup.Group
	epoch int64
}

// runs is whether the container has processes.
func (c container) runs() (bool, error) {
	if !c.group.Exists() {
		return false, nil
	}
	pids, err := c.group.Procs()
	return len(pids) > 0, err
}

// registry reads the registrations that the container runtime leaves in a
// folder. A registration is parsed once: it does not change.
type registry struct {
	folder     string
	cgroupRoot string
	log        *slog.Logger
	entries    map[string]entry // by file name
}

// entry is one file of the folder.
type entry struct {
	changed time.Time
	pod     string
	group   cgroup.Group // of the pod
	container
}

func newRegistry(folder, cgroupRoot string, log *slog.Logger) *registry {
	return &registry{folder: folder, cgroupRoot: cgroupRoot, log: log, entries: map[string]entry{}}
}

// pods returns every pod with a registered container, by the path of its cgroup.
// Its error does not keep it from returning the pods that it could read.
func (r *registry) pods() (map[string]*pod, error) {
	files, err := os.ReadDir(r.folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the registered containers: %w", err)
	}
	var unread error
	present := make(map[string]entry, len(files))
	for _, file := range files {
		if path.Ext(file.Name()) != ".json" {
			continue
		}
		e, err := r.entry(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			unread = errors.Join(unread, err)
			continue
		}
		present[file.Name()] = e
	}
	r.entries = present

	pods := make(map[string]*pod, len(present))
	for _, e := range present {
		key := e.group.Path()
		if pods[key] == nil {
			pods[key] = &pod{name: e.pod, group: e.group}
		}
		pods[key].containers = append(pods[key].containers, e.container)
	}
	return pods, unread
}

// entry reads one registration, from memory where the file has not changed.
func (r *registry) entry(file fs.DirEntry) (entry, error) {
	info, err := file.Info()
	if err != nil {
		return entry{}, err
	}
	if known, ok := r.entries[file.Name()]; ok && known.changed.Equal(info.ModTime()) {
		return known, nil
	}
	content, err := os.ReadFile(filepath.Join(r.folder, file.Name()))
	if err != nil {
		return entry{}, err
	}
	var registration client.Registration
	if err := json.Unmarshal(content, &registration); err != nil {
		return entry{}, fmt.Errorf("read the registration %s: %w", file.Name(), err)
	}
	group, err := cgroup.ForPath(r.cgroupRoot, registration.CgroupsPath)
	if err != nil {
		return entry{}, fmt.Errorf("find the cgroup of container %s: %w", registration.ID, err)
	}
	e := entry{
		changed:   info.ModTime(),
		pod:       registration.Namespace + "/" + registration.PodName,
		group:     podGroup(group, registration.PodUID),
		container: container{group: group, epoch: registration.Epoch},
	}
	if e.group == group {
		r.log.Warn("the container's cgroup does not lie in one of its pod: it is fenced alone",
			"pod", e.pod, "container", registration.ID, "cgroup", group.Path())
	}
	return e, nil
}

// podGroup is the pod's cgroup: the parent of the container's, if that is named
// after the pod as kubelet does. Anything else, such as the cgroup of all pods,
// must not be frozen for the sake of one, and the container's own is returned.
func podGroup(container cgroup.Group, podUID string) cgroup.Group {
	parent := container.Parent()
	name := path.Base(parent.Path())
	named := strings.Contains(name, podUID) || strings.Contains(name, strings.ReplaceAll(podUID, "-", "_"))
	if podUID == "" || !named {
		return container
	}
	return parent
}
