package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/pki"
)

const (
	etc           = "/etc/kubernetes/" // on every machine
	schedulerPath = "/usr/local/bin/lifeboat-scheduler"
	apiReady      = apiServerURL + "/readyz"
	apiServerURL  = "https://10.89.0.1:6443"
)

// credentials are what a cluster's programs authenticate with.
type credentials struct {
	authority *pki.Authority
	tokens    pki.Pair // signs service account tokens
}

func newCredentials() (credentials, error) {
	authority, err := pki.NewAuthority()
	if err != nil {
		return credentials{}, err
	}
	tokens, err := pki.NewKeyPair()
	if err != nil {
		return credentials{}, err
	}
	return credentials{authority, tokens}, nil
}

// controlPlaneSpec is the machine with etcd, the API server, the controllers and the
// scheduler.
func (c *Cluster) controlPlaneSpec() machine.Spec {
	s := c.baseSpec(controlPlane)
	s.Persistent = []string{"/var/lib/etcd"}
	s.Forward = net.JoinHostPort(gateway.Addr().String(), "6443")
	ready := []machine.Condition{{Ready: apiReady}}
	scheduler := "kube-scheduler"
	if c.config.Scheduler.Dir != "" {
		scheduler = schedulerPath
	}
	s.Services = []machine.Service{
		{Name: "etcd", Argv: []string{
			"etcd", "--name=local", "--data-dir=/var/lib/etcd",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			// Its data need not outlive the host; the host's disk is not to slow down the cluster.
			"--unsafe-no-fsync",
		}},
		{Name: "kube-apiserver", Wait: []machine.Condition{{TCP: "127.0.0.1:2379"}}, Argv: []string{
			"kube-apiserver",
			"--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + gateway.Addr().String(),
			"--tls-cert-file=" + etc + "apiserver.crt", "--tls-private-key-file=" + etc + "apiserver.key",
			"--client-ca-file=" + etc + "ca.crt",
			// Nobody has a certificate of that name; the scheduler insists on the setting.
			"--requestheader-client-ca-file=" + etc + "ca.crt", "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--service-account-key-file=" + etc + "tokens.pub", "--service-account-signing-key-file=" + etc + "tokens.key",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--service-cluster-ip-range=" + serviceRange.String(),
			"--allow-privileged",
			"--kubelet-client-certificate=" + etc + "kubelet-client.crt", "--kubelet-client-key=" + etc + "kubelet-client.key",
			"--kubelet-certificate-authority=" + etc + "ca.crt",
			// Node names do not resolve here.
			"--kubelet-preferred-address-types=InternalIP",
		}},
		{Name: "kube-controller-manager", Wait: ready, Argv: append([]string{
			"kube-controller-manager",
			"--kubeconfig=" + etc + "controller-manager.conf",
			"--service-account-private-key-file=" + etc + "tokens.key", "--root-ca-file=" + etc + "ca.crt",
			"--cluster-signing-cert-file=" + etc + "ca.crt", "--cluster-signing-key-file=" + etc + "ca.key",
			"--use-service-account-credentials",
			// It is the only one.
			"--leader-elect=false",
		}, c.config.NodeMonitor.flags()...)},
		{Name: "kube-scheduler", Wait: ready, Argv: []string{
			scheduler,
			"--config=" + etc + "scheduler.yaml",
			"--authentication-kubeconfig=" + etc + "scheduler.conf", "--authorization-kubeconfig=" + etc + "scheduler.conf",
			"--v=2",
		}},
		// The API server reaches webhooks by their services. There is no Node for this
		// machine, and a kube-proxy without one idles for its first 30 s: it goes by n1's.
		kubeProxy(nodeName(1)),
	}
	return s
}

// kubeProxy is the service that makes Services work on a machine.
func kubeProxy(node string) machine.Service {
	return machine.Service{Name: "kube-proxy", Wait: []machine.Condition{{Ready: apiReady}}, Argv: []string{
		"kube-proxy", "--kubeconfig=" + etc + "kube-proxy.conf", "--hostname-override=" + node, "--proxy-mode=nftables",
		// These are the whole host's and stay as they are.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--oom-score-adj=0",
	}}
}

// writeControlPlane puts the control plane's files on its machine's disk.
func (c *Cluster) writeControlPlane(s machine.Spec, creds credentials) error {
	files := fileWriter{spec: s}
	ca := creds.authority.CA()
	files.add(etc+"ca.crt", ca.Cert, 0o644)
	files.add(etc+"ca.key", ca.Key, 0o600)
	files.add(etc+"tokens.pub", creds.tokens.Cert, 0o644)
	files.add(etc+"tokens.key", creds.tokens.Key, 0o600)
	files.addPair(creds.authority, etc+"apiserver", pki.Subject{
		User:      "kube-apiserver",
		Addresses: []net.IP{ip(gateway.Addr()), ip(kubernetesAt), net.IPv4(127, 0, 0, 1)},
		Names:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
	})
	files.addPair(creds.authority, etc+"kubelet-client", pki.Subject{User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	for file, user := range map[string]string{
		"controller-manager.conf": "system:kube-controller-manager",
		"scheduler.conf":          "system:kube-scheduler",
		"kube-proxy.conf":         "system:kube-proxy",
	} {
		files.addKubeconfig(creds.authority, c.config.Name, etc+file, pki.Subject{User: user})
	}
	config, err := schedulerConfig(c.config.Scheduler.ConfigFile)
	if err != nil {
		return err
	}
	files.add(etc+"scheduler.yaml", config, 0o644)
	if c.schedulerBinary != "" {
		binary, err := os.ReadFile(c.schedulerBinary)
		if err != nil {
			return fmt.Errorf("install scheduler: %w", err)
		}
		files.add(schedulerPath, binary, 0o755)
	}
	files.addHostFiles(s.Name)
	return files.err
}

// schedulerConfig is the scheduler's configuration with its kubeconfig put in.
func schedulerConfig(file string) ([]byte, error) {
	config := map[string]any{"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read scheduler configuration: %w", err)
		}
		config = map[string]any{}
		if err := yaml.Unmarshal(text, &config); err != nil {
			return nil, fmt.Errorf("read scheduler configuration %s: %w", file, err)
		}
		if config["kind"] != "KubeSchedulerConfiguration" {
			return nil, fmt.Errorf("read scheduler configuration %s: its kind is %v, want KubeSchedulerConfiguration", filepath.Base(file), config["kind"])
		}
	}
	connection, _ := config["clientConnection"].(map[string]any)
	if connection == nil {
		connection = map[string]any{}
	}
	connection["kubeconfig"] = etc + "scheduler.conf"
	config["clientConnection"] = connection
	election, _ := config["leaderElection"].(map[string]any)
	if election == nil {
		election = map[string]any{}
	}
	// It is the only one, and a new one should not wait for a dead one's lease.
	election["leaderElect"] = false
	config["leaderElection"] = election
	return yaml.Marshal(config)
}
