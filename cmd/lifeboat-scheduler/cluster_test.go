package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

const (
	// binariesVariable names a folder with etcd and kube-apiserver. Without it
	// the test builds them from e2e/kubernetes, which takes minutes at first.
	binariesVariable = "LIFEBOAT_KUBERNETES"

	// asScheduler makes the test binary behave as lifeboat-scheduler itself.
	asScheduler = "LIFEBOAT_TEST_AS_SCHEDULER"

	schedulerUser = "system:kube-scheduler"
	startTimeout  = 90 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(asScheduler) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// controlPlane is an etcd and a kube-apiserver that end with the test.
type controlPlane struct {
	t       *testing.T
	address string
	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	binaries, dir := kubernetesBinaries(t), t.TempDir()
	etcdClient, etcdPeer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	start(t, nil, filepath.Join(binaries, "etcd"),
		"--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcdClient, "--advertise-client-urls", etcdClient,
		"--listen-peer-urls", etcdPeer, "--initial-advertise-peer-urls", etcdPeer,
		"--initial-cluster", "default="+etcdPeer)

	tokens := filepath.Join(dir, "tokens.csv")
	write(t, tokens, []byte("admin-token,admin,1,system:masters\nscheduler-token,"+schedulerUser+",2,\n"))
	key := filepath.Join(dir, "service-accounts.pem")
	write(t, key, newKey(t))
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	start(t, nil, filepath.Join(binaries, "kube-apiserver"),
		"--etcd-servers", etcdClient, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--cert-dir", filepath.Join(dir, "certificates"), "--token-auth-file", tokens,
		"--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://test", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		// Nobody here creates service accounts or takes the taints off new nodes.
		"--disable-admission-plugins", "ServiceAccount,TaintNodesByCondition")

	cp := &controlPlane{t: t, address: address}
	cp.config = &rest.Config{
		Host: "https://" + address, BearerToken: "admin-token", QPS: 200, Burst: 400,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
	var err error
	if cp.typed, err = kubernetes.NewForConfig(cp.config); err != nil {
		t.Fatal(err)
	}
	if cp.dynamic, err = dynamic.NewForConfig(cp.config); err != nil {
		t.Fatal(err)
	}
	eventually(t, startTimeout, "the API server is ready", func(ctx context.Context) error {
		return cp.typed.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	return cp
}

// startScheduler runs the binary under test with the shipped configuration.
func (cp *controlPlane) startScheduler() {
	cp.t.Helper()
	dir := cp.t.TempDir()
	kubeconfig, err := yaml.Marshal(clientcmdapi.Config{
		Clusters:       []clientcmdapi.NamedCluster{{Name: "c", Cluster: clientcmdapi.Cluster{Server: "https://" + cp.address, InsecureSkipTLSVerify: true}}},
		AuthInfos:      []clientcmdapi.NamedAuthInfo{{Name: "u", AuthInfo: clientcmdapi.AuthInfo{Token: "scheduler-token"}}},
		Contexts:       []clientcmdapi.NamedContext{{Name: "x", Context: clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}}},
		CurrentContext: "x",
	})
	if err != nil {
		cp.t.Fatal(err)
	}
	write(cp.t, filepath.Join(dir, "kubeconfig"), kubeconfig)
	shipped, err := os.ReadFile("../../manifests/scheduler/config.yaml")
	if err != nil {
		cp.t.Fatal(err)
	}
	config := filepath.Join(dir, "config.yaml")
	write(cp.t, config, fmt.Appendf(shipped, "clientConnection:\n  kubeconfig: %s\n", filepath.Join(dir, "kubeconfig")))
	self, err := os.Executable()
	if err != nil {
		cp.t.Fatal(err)
	}
	start(cp.t, []string{asScheduler + "=1"}, self, "--config", config, "--secure-port", "0")
}

// apply creates every object of a manifest.
func (cp *controlPlane) apply(path string) {
	cp.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		cp.t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(cp.config)))
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var object unstructured.Unstructured
		if err := decoder.Decode(&object); err != nil {
			return
		}
		if len(object.Object) == 0 {
			continue
		}
		mapping, err := mapper.RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
		if err != nil {
			cp.t.Fatalf("apply %s: %v", path, err)
		}
		resource := dynamic.ResourceInterface(cp.dynamic.Resource(mapping.Resource))
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = cp.dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace())
		}
		if _, err := resource.Create(cp.t.Context(), &object, metav1.CreateOptions{}); err != nil {
			cp.t.Fatalf("apply %s: %v", path, err)
		}
	}
}

func kubernetesBinaries(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(binariesVariable); dir != "" {
		return dir
	}
	dir := t.TempDir()
	for name, pkg := range map[string]string{
		"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
	} {
		build := exec.Command("go", "build", "-C", "../../e2e/kubernetes", "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4",
			"-o", filepath.Join(dir, name), pkg)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

// start runs a program until the test ends, and shows the end of its output
// when the test has failed.
func start(t *testing.T, environment []string, program string, arguments ...string) {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = output.Close()
		if t.Failed() {
			content, _ := os.ReadFile(output.Name())
			lines := strings.Split(string(content), "\n")
			t.Logf("end of the output of %s:\n%s", filepath.Base(program), strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
}

// eventually waits until the condition returns nil.
func eventually(t *testing.T, within time.Duration, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	last := fmt.Errorf("not tried")
	for ctx.Err() == nil {
		if err := condition(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("waited %s until %s: %v", within, what, last)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func newKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
