package preflight

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Spec judges a pod by its specification and annotations alone. What its
// programs do, which files and sockets they open, is not in there.
func Spec(pod *corev1.Pod) Report {
	g := &gatherer{}
	spec := &pod.Spec
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil {
		g.add("", WrongAnnotation, "%v", err)
	}
	if class := spec.RuntimeClassName; class != nil && *class != v1alpha1.RuntimeClassName {
		g.add("", OtherRuntimeClass, "the pod has runtimeClassName %q, with which it could not be restored", *class)
	}
	if spec.HostPID {
		g.add("", HostProcesses, "the pod uses the node's process namespace")
	}
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		g.add("", SharedProcesses, "the pod's containers share one process namespace")
	}
	if spec.HostNetwork {
		g.add("", HostNetwork, "the pod uses the node's network")
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		g.add("", UserNamespace, "the pod has a user namespace")
	}
	if spec.HostIPC {
		g.add("", HostIPC, "the pod uses the node's shared memory")
	}
	if volume := LastingVolume(pod); volume != "" && (err != nil || protection.Volumes == v1alpha1.VolumesProtect) {
		g.add("", WritableVolume, "volume %q is writable and outlives the pod, so the pod starts cold after a node loss: older memory must not meet newer files", volume)
	}
	lasting := v1alpha1.LastingContainers(pod)
	for _, c := range containers(spec) {
		if slices.Contains(lasting, c.Name) {
			g.containerSpec(&c)
		}
	}
	return g.report()
}

func (g *gatherer) containerSpec(c *corev1.Container) {
	if c.TTY {
		g.add(c.Name, Terminal, "the container has a terminal")
	}
	for _, resources := range []corev1.ResourceList{c.Resources.Limits, c.Resources.Requests} {
		for _, name := range resourceNames(resources) {
			switch {
			case strings.HasPrefix(name, corev1.ResourceHugePagesPrefix):
				g.once(c.Name, HugePages, "the container asks for "+name)
			case isDevice(name):
				g.once(c.Name, Device, "the container asks for the device "+name)
			}
		}
	}
	if len(c.Resources.Claims) > 0 {
		g.once(c.Name, Device, "the container claims the device "+c.Resources.Claims[0].Name)
	}
	for _, d := range c.VolumeDevices {
		g.add(c.Name, Device, "the container has the block device %s", d.DevicePath)
	}
}

// once notes a finding that several fields of a specification speak of.
func (g *gatherer) once(container string, reason Reason, detail string) {
	if !slices.ContainsFunc(g.findings, func(f Finding) bool { return f.Container == container && f.Reason == reason }) {
		g.add(container, reason, "%s", detail)
	}
}

func resourceNames(list corev1.ResourceList) []string {
	var names []string
	for name, quantity := range list {
		if !quantity.IsZero() {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return names
}

// isDevice is whether a resource is one that a device plugin gives out. Those of
// Kubernetes itself have no domain, or its own.
func isDevice(resource string) bool {
	domain, _, found := strings.Cut(resource, "/")
	return found && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

func containers(spec *corev1.PodSpec) []corev1.Container {
	return append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...)
}

// LastingVolume returns the name of a volume of the pod that outlives it and
// that one of its containers may write to, or "".
func LastingVolume(pod *corev1.Pod) string {
	lasting := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		s := v.VolumeSource
		harmless := s.EmptyDir != nil || s.ConfigMap != nil || s.Secret != nil || s.Projected != nil || s.DownwardAPI != nil || s.Image != nil
		if !harmless && (s.PersistentVolumeClaim == nil || !s.PersistentVolumeClaim.ReadOnly) {
			lasting[v.Name] = true
		}
	}
	for _, c := range containers(&pod.Spec) {
		for _, m := range c.VolumeMounts {
			if lasting[m.Name] && !m.ReadOnly {
				return m.Name
			}
		}
		for _, d := range c.VolumeDevices {
			if lasting[d.Name] {
				return d.Name
			}
		}
	}
	return ""
}
