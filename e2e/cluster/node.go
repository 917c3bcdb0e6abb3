package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/pki"
)

// baseSpec is what all machines have in common.
func (c *Cluster) baseSpec(name string) machine.Spec {
	return machine.Spec{
		Cluster:  c.config.Name,
		Name:     name,
		NetNS:    c.paths.netns(name),
		Root:     c.state.NodeRoot,
		Disk:     c.paths.disk(name),
		Logs:     c.paths.logs() + "/" + name,
		Binaries: c.state.Binaries,
	}
}

// nodeSpec is the machine of a node.
func (c *Cluster) nodeSpec(number int) machine.Spec {
	const containerd = "/run/containerd/containerd.sock"
	name := nodeName(number)
	s := c.baseSpec(name)
	s.Images, s.Shared = c.paths.images(), c.paths.shared()
	// Lifeboat's own store beside the two that cannot lie on an overlay.
	s.Persistent = []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/lifeboat"}
	s.Services = []machine.Service{
		{Name: "containerd", Argv: []string{"containerd"}},
		{
			Name: "kubelet",
			Wait: []machine.Condition{{Socket: containerd}, {Images: true}, {Ready: apiReady}},
			Argv: []string{
				"kubelet", "--config=" + etc + "kubelet.yaml", "--kubeconfig=" + etc + "kubelet.conf",
				"--hostname-override=" + name, "--node-ip=" + nodeAddress(number).Addr().String(), "--v=2",
			},
		},
		kubeProxy(name),
	}
	return s
}

func cable(number int) netns.Cable {
	return netns.Cable{Node: nodeName(number), Address: nodeAddress(number), Pods: podRange(number)}
}

// writeNode puts a node's files on its machine's disk.
func (c *Cluster) writeNode(s machine.Spec, number int, creds credentials) error {
	files := fileWriter{spec: s}
	address := nodeAddress(number).Addr()
	node := pki.Subject{
		User:      "system:node:" + s.Name,
		Groups:    []string{"system:nodes"},
		Addresses: []net.IP{ip(address)},
		Names:     []string{s.Name},
	}
	files.add(etc+"ca.crt", creds.authority.CA().Cert, 0o644)
	files.addPair(creds.authority, etc+"kubelet", node)
	files.addKubeconfig(creds.authority, c.config.Name, etc+"kubelet.conf", node)
	files.addKubeconfig(creds.authority, c.config.Name, etc+"kube-proxy.conf", pki.Subject{User: "system:kube-proxy"})
	files.addYAML(etc+"kubelet.yaml", kubeletConfig(c.config.NodeMonitor))
	files.addJSON("/etc/cni/net.d/10-pods.conflist", podNetwork(number))
	containerd, err := containerdConfig(c.config.ContainerdDropIns)
	if err != nil {
		return err
	}
	files.add("/etc/containerd/config.toml", containerd, 0o644)
	files.addHostFiles(s.Name)
	return files.err
}

// kubeletConfig leaves everything at kubelet's defaults that decides how fast Kubernetes
// notices and handles a lost node, except what monitor says.
func kubeletConfig(monitor NodeMonitor) map[string]any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": etc + "ca.crt"},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"tlsCertFile":              etc + "kubelet.crt",
		"tlsPrivateKeyFile":        etc + "kubelet.key",
		"cgroupDriver":             "cgroupfs", // there is no systemd on a node
		"failCgroupV1":             false,
		"failSwapOn":               false,
		// There is no DNS server. Without an address, kubelet would warn about every pod.
		"clusterDNS":    []string{dnsAt.String()},
		"clusterDomain": "cluster.local",
		"resolvConf":    "/etc/resolv.conf",
		// The nodes share the host's disk and memory, which others fill too.
		"evictionHard":                map[string]string{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
	}
	monitor.kubelet(config)
	return config
}

// podNetwork connects each pod to its node by a cable of its own, not by a bridge: on a
// bridge, the answer of a Service's pod to a pod beside it would not pass the node's
// rules, which have to turn its address back, unless the host loads br_netfilter.
func podNetwork(number int) map[string]any {
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       "pods",
		"plugins": []map[string]any{
			{
				"type":   "ptp",
				"ipMasq": false,
				"ipam": map[string]any{
					"type":   "host-local",
					"ranges": [][]map[string]string{{{"subnet": podRange(number).String()}}},
					"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}
}

const containerdBase = `version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.8"
  # A host may lack CAP_SYS_RESOURCE, and then refuses every lower score.
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`

var versionLine = regexp.MustCompile(`(?m)^version\s*=.*$`)

// containerdConfig is containerd's configuration with the texts of the drop-ins.
func containerdConfig(dropIns []string) ([]byte, error) {
	config := []byte(containerdBase)
	for _, file := range dropIns {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read containerd drop-in: %w", err)
		}
		config = append(config, '\n')
		config = append(config, versionLine.ReplaceAll(text, nil)...)
	}
	return config, nil
}

// fileWriter writes files to a machine's disk up to the first error.
type fileWriter struct {
	spec machine.Spec
	err  error
}

func (w *fileWriter) add(path string, content []byte, mode os.FileMode) {
	if w.err == nil {
		w.err = w.spec.WriteFile(path, content, mode)
	}
}

func (w *fileWriter) addPair(authority *pki.Authority, base string, s pki.Subject) {
	if w.err != nil {
		return
	}
	pair, err := authority.Issue(s)
	w.err = err
	w.add(base+".crt", pair.Cert, 0o644)
	w.add(base+".key", pair.Key, 0o600)
}

func (w *fileWriter) addKubeconfig(authority *pki.Authority, cluster, path string, s pki.Subject) {
	if w.err != nil {
		return
	}
	text, err := authority.Kubeconfig(apiServerURL, cluster, s)
	w.err = err
	w.add(path, text, 0o600)
}

func (w *fileWriter) addYAML(path string, content any) {
	if w.err != nil {
		return
	}
	text, err := yaml.Marshal(content)
	w.err = err
	w.add(path, text, 0o644)
}

func (w *fileWriter) addJSON(path string, content any) {
	if w.err != nil {
		return
	}
	text, err := json.MarshalIndent(content, "", "  ")
	w.err = err
	w.add(path, text, 0o644)
}

// addHostFiles writes what tells machines apart.
func (w *fileWriter) addHostFiles(name string) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil && w.err == nil {
		w.err = err
	}
	w.add("/etc/machine-id", []byte(hex.EncodeToString(id)+"\n"), 0o444)
	w.add("/etc/hostname", []byte(name+"\n"), 0o644)
	w.add("/etc/hosts", []byte("127.0.0.1 localhost\n127.0.1.1 "+name+"\n"), 0o644)
	// Nothing is resolved: there is no way out of the cluster.
	w.add("/etc/resolv.conf", []byte("nameserver 127.0.0.1\n"), 0o644)
}
