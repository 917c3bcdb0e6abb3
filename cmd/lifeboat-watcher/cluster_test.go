package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// binariesVariable names a folder with etcd and kube-apiserver. Without it
	// the test builds them from e2e/kubernetes, which takes minutes at first.
	binariesVariable = "LIFEBOAT_KUBERNETES"
	startTimeout     = 90 * time.Second

	adminToken, watcherToken = "admin-token", "watcher-token"
	// watcherUser is bound to the shipped roles.
	watcherUser = "system:serviceaccount:lifeboat-system:lifeboat-watcher"
)

// controlPlane is an etcd and a kube-apiserver that end with the test.
type controlPlane struct {
	t       *testing.T
	address string
	client.Client
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
	write(t, tokens, []byte(adminToken+",admin,1,system:masters\n"+watcherToken+","+watcherUser+",2,\n"))
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
	eventually(t, startTimeout, "the API server is ready", func(context.Context) error {
		scheme := apiruntime.NewScheme()
		for _, add := range []func(*apiruntime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
			if err := add(scheme); err != nil {
				return err
			}
		}
		config := cp.config(adminToken)
		unversioned, err := rest.HTTPClientFor(config)
		if err != nil {
			return err
		}
		response, err := unversioned.Get(config.Host + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		cp.Client, err = client.New(config, client.Options{Scheme: scheme})
		return err
	})
	return cp
}

func (cp *controlPlane) config(token string) *rest.Config {
	return &rest.Config{
		Host: "https://" + cp.address, BearerToken: token, QPS: 500, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

// kubeconfig writes a kubeconfig file for the holder of a token.
func (cp *controlPlane) kubeconfig(token string) string {
	cp.t.Helper()
	content, err := yaml.Marshal(clientcmdapi.Config{
		Clusters:       []clientcmdapi.NamedCluster{{Name: "c", Cluster: clientcmdapi.Cluster{Server: "https://" + cp.address, InsecureSkipTLSVerify: true}}},
		AuthInfos:      []clientcmdapi.NamedAuthInfo{{Name: "u", AuthInfo: clientcmdapi.AuthInfo{Token: token}}},
		Contexts:       []clientcmdapi.NamedContext{{Name: "x", Context: clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}}},
		CurrentContext: "x",
	})
	if err != nil {
		cp.t.Fatal(err)
	}
	path := filepath.Join(cp.t.TempDir(), "kubeconfig")
	write(cp.t, path, content)
	return path
}

// apply creates the objects of a manifest, after a change to each.
func (cp *controlPlane) apply(path string, change func(*unstructured.Unstructured)) {
	cp.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		cp.t.Fatal(err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			cp.t.Fatalf("read %s: %v", path, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if change != nil {
			change(object)
		}
		// A kind that was defined just before may not be served yet.
		eventually(cp.t, 20*time.Second, "applied "+path, func(ctx context.Context) error { return cp.Create(ctx, object) })
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

// process is a program that runs until the test ends.
type process struct {
	*exec.Cmd
	output string
}

// start runs a program until the test ends, and shows the end of its output
// when the test has failed.
func start(t *testing.T, environment []string, program string, arguments ...string) *process {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// Pdeathsig follows the thread that starts the program, so it must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- command.Start()
		<-ended
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		close(ended)
		_ = output.Close()
		if t.Failed() {
			content, _ := os.ReadFile(output.Name())
			lines := strings.Split(string(content), "\n")
			t.Logf("end of the output of %s %s:\n%s", filepath.Base(program), strings.Join(environment, " "), strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	return &process{Cmd: command, output: output.Name()}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until the condition returns nil.
func eventually(t *testing.T, within time.Duration, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	last := errors.New("not tried")
	for ctx.Err() == nil {
		if err := condition(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
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

func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
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

var errNotYet = errors.New("not yet")
