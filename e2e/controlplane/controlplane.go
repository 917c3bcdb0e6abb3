// Package controlplane gives a test an API server of its own, a real kube-apiserver and
// its etcd without nodes and, unless it asks for some, controllers, and runs programs at it.
package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/binaries"
)

// BinariesVariable is the environment variable with a folder that has etcd,
// kube-apiserver and kube-controller-manager. Without it they are those of the local clusters, built when needed.
const BinariesVariable = "LIFEBOAT_KUBERNETES"

// AdminToken is the token of a user who may do everything.
const AdminToken = "admin-token"

// A ControlPlane is an etcd and a kube-apiserver that end with their test.
type ControlPlane struct {
	t    T
	host string // the API server's URL

	start func() *Program // starts the API server
	api   *Program
}

// Start starts a control plane and waits until it is ready. Besides the holder of
// AdminToken it knows the users, whose names are given by token; they may do what role
// bindings grant to them. The API server gets the arguments besides its usual ones.
func Start(t T, users map[string]string, arguments ...string) *ControlPlane {
	t.Helper()
	folder, dir := kubernetes(t), t.TempDir()
	etcdClient, etcdPeer := "http://"+FreeAddress(t), "http://"+FreeAddress(t)
	StartProgram(t, nil, filepath.Join(folder, "etcd"),
		"--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcdClient, "--advertise-client-urls", etcdClient,
		"--listen-peer-urls", etcdPeer, "--initial-advertise-peer-urls", etcdPeer,
		"--initial-cluster", "default="+etcdPeer)

	lines := AdminToken + ",admin,admin,system:masters\n"
	for token, user := range users {
		lines += token + "," + user + "," + token + ",\n"
	}
	tokens, key := filepath.Join(dir, "tokens.csv"), filepath.Join(dir, "service-accounts.pem")
	write(t, tokens, []byte(lines))
	write(t, key, newKey(t))
	port := FreePort(t)
	arguments = append([]string{
		"--etcd-servers", etcdClient, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--cert-dir", filepath.Join(dir, "certificates"), "--token-auth-file", tokens,
		"--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://test", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		// Nobody here creates service accounts or takes the taints off new nodes.
		"--disable-admission-plugins", "ServiceAccount,TaintNodesByCondition",
	}, arguments...)
	c := &ControlPlane{t: t, host: "https://127.0.0.1:" + port}
	c.start = func() *Program { return StartProgram(t, nil, filepath.Join(folder, "kube-apiserver"), arguments...) }
	c.StartAPIServer()
	return c
}

// Host is the URL of the API server.
func (c *ControlPlane) Host() string { return c.host }

// APIServer is the API server's process: to be stopped and continued, or killed.
func (c *ControlPlane) APIServer() *Program { return c.api }

// StartAPIServer starts the API server, again after it was killed, and waits until it
// is ready.
func (c *ControlPlane) StartAPIServer() {
	c.t.Helper()
	if c.api != nil {
		_ = c.api.Wait()
	}
	c.api = c.start()
	c.awaitReady()
}

func (c *ControlPlane) awaitReady() {
	t := c.t
	t.Helper()
	caller, err := rest.HTTPClientFor(c.Config(AdminToken))
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, "the API server is ready", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.host+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := caller.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// StartControllers starts kube-controller-manager with some of its controllers alone,
// as "replicaset-controller", until the test ends.
func (c *ControlPlane) StartControllers(names ...string) {
	c.t.Helper()
	StartProgram(c.t, nil, filepath.Join(kubernetes(c.t), "kube-controller-manager"), "--kubeconfig", c.Kubeconfig(AdminToken),
		"--controllers", strings.Join(names, ","), "--leader-elect=false", "--bind-address", "127.0.0.1", "--secure-port", FreePort(c.t),
		"--cert-dir", c.t.TempDir())
}

// Config is how the holder of a token calls the API server.
func (c *ControlPlane) Config(token string) *rest.Config {
	return &rest.Config{
		Host: c.host, BearerToken: token, QPS: 500, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

// Kubeconfig writes a kubeconfig for the holder of a token, and returns its path.
func (c *ControlPlane) Kubeconfig(token string) string {
	c.t.Helper()
	content, err := yaml.Marshal(clientcmdapi.Config{
		Clusters:       []clientcmdapi.NamedCluster{{Name: "c", Cluster: clientcmdapi.Cluster{Server: c.host, InsecureSkipTLSVerify: true}}},
		AuthInfos:      []clientcmdapi.NamedAuthInfo{{Name: "u", AuthInfo: clientcmdapi.AuthInfo{Token: token}}},
		Contexts:       []clientcmdapi.NamedContext{{Name: "x", Context: clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}}},
		CurrentContext: "x",
	})
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.t.TempDir(), "kubeconfig")
	write(c.t, path, content)
	return path
}

// kubernetes is the folder of Kubernetes' programs and etcd.
func kubernetes(t T) string {
	t.Helper()
	if folder := os.Getenv(BinariesVariable); folder != "" {
		return folder
	}
	folder, err := binaries.Kubernetes(t.Context(), func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func newKey(t T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func write(t T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
