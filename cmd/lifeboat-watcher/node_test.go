package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/identity"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// The test binary behaves as one of these when the variable says so, so that a
// node can lose its power: a stopped process answers nobody and refuses nobody.
const (
	asVariable = "LIFEBOAT_TEST_AS"
	asWatcher  = "watcher"
	asNode     = "node"   // the membership, the store and the peer protocol of a checkpointer
	asFencer   = "fencer" // the real fencer, of a node on which nothing runs
	// ordersVariable has the path of a watcher's file of orders, see mortal.
	ordersVariable = "LIFEBOAT_TEST_ORDERS"
	// nodeVariable has a nodeConfig as JSON.
	nodeVariable = "LIFEBOAT_TEST_NODE"
)

type nodeConfig struct {
	Name, IP             string
	MemberPort, PeerPort int
	// FencerPort is that of the fencer's metrics, VoucherPort where it answers peers.
	FencerPort, VoucherPort int
	Folder                  string
	// Sealed are generations that the node holds.
	Sealed []sealed
}

type sealed struct {
	Namespace, PodUID string
	Number            int64
	TakenAt           time.Time
}

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(asVariable) {
	case asWatcher:
		err = runWatcher()
	case asNode:
		err = runNode()
	case asFencer:
		err = runFencer()
	default:
		steady.TemporaryFolders()
		os.Exit(steady.Main(m.Run, 500*time.Millisecond))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readNodeConfig() (c nodeConfig, err error) {
	err = json.Unmarshal([]byte(os.Getenv(nodeVariable)), &c)
	return c, err
}

func runFencer() error {
	c, err := readNodeConfig()
	if err != nil {
		return err
	}
	api, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	return fence.Run(context.Background(), fence.Config{
		NodeName: c.Name, Folder: filepath.Join(c.Folder, "run"), CgroupRoot: filepath.Join(c.Folder, "cgroup"),
		BootID: "boot-of-" + c.Name, MetricsPort: c.FencerPort, VoucherPort: c.VoucherPort,
	}, api, slog.Default())
}

func runNode() error {
	ctx := context.Background()
	c, err := readNodeConfig()
	if err != nil {
		return err
	}
	api, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	clientset, err := kubernetes.NewForConfig(api)
	if err != nil {
		return err
	}
	authority, err := identity.Ensure(ctx, clientset, v1alpha1.SystemNamespace)
	if err != nil {
		return err
	}
	held, err := store.Open(filepath.Join(c.Folder, "store"), identity.NewNamespaceKeys(clientset, v1alpha1.SystemNamespace), store.Options{})
	if err != nil {
		return err
	}
	for _, s := range c.Sealed {
		staged := filepath.Join(c.Folder, "staged")
		if err := os.MkdirAll(filepath.Join(staged, "app", "images"), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(staged, "app", "images", "core-1.img"), []byte("state"), 0o600); err != nil {
			return err
		}
		if _, err := held.Seal(ctx, store.Key{Namespace: s.Namespace, PodUID: s.PodUID},
			store.Generation{Number: s.Number, TakenAt: s.TakenAt, PodName: "p", Containers: []string{"app"}}, staged, nil); err != nil {
			return err
		}
	}
	serverTLS, err := authority.ServerTLS(c.Name)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.IP, strconv.Itoa(c.PeerPort)))
	if err != nil {
		return err
	}
	server := grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(server, transfer.NewServer(held))
	go server.Serve(listener)

	members, err := membership.New(membership.Config{
		Name: c.Name, Kind: membership.Checkpointer, BindAddr: c.IP, AdvertiseAddr: c.IP, Port: c.MemberPort,
		PeerAddress: listener.Addr().String(), Key: authority.MemberKey(), Logger: slog.Default(),
	})
	if err != nil {
		return err
	}
	go noteMembers(members, filepath.Join(c.Folder, membersFile))
	// The watchers look for the nodes, so a node need not look for anybody.
	return members.Run(ctx, func(context.Context) []string { return nil })
}

// membersFile has how many other members a node sees alive, in its folder.
const membersFile = "members"

func noteMembers(members *membership.Membership, file string) {
	for range members.Changes() {
		alive := 0
		for _, m := range members.Members() {
			if m.State == membership.Alive {
				alive++
			}
		}
		if err := os.WriteFile(file, []byte(strconv.Itoa(alive)), 0o600); err != nil {
			slog.Error("the members cannot be noted", "error", err)
		}
	}
}

// node is a node of the test's cluster.
type node struct {
	nodeConfig
	checkpointer, fencer *controlplane.Program
}

// startNode makes a Node object and what Lifeboat runs there, and waits until the
// node may run pods.
func (cp *controlPlane) startNode(t *testing.T, c nodeConfig) *node {
	t.Helper()
	c.FencerPort, _ = strconv.Atoi(controlplane.FreePort(t))
	c.VoucherPort, _ = strconv.Atoi(controlplane.FreePort(t))
	c.Folder = t.TempDir()
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cp.makeNode(c)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	environment := []string{"KUBECONFIG=" + cp.Kubeconfig(controlplane.AdminToken), nodeVariable + "=" + string(encoded)}
	n := &node{nodeConfig: c}
	n.fencer = controlplane.StartProgram(t, append(environment, asVariable+"="+asFencer), self)
	n.checkpointer = controlplane.StartProgram(t, append(environment, asVariable+"="+asNode), self)
	controlplane.Eventually(t, c.Name+" may run pods", func(ctx context.Context) error {
		fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: c.Name}}
		facts, _ := json.Marshal(map[string]any{"status": map[string]any{"facts": map[string]any{
			"peerAddress": net.JoinHostPort(c.IP, strconv.Itoa(c.PeerPort))}}})
		return cp.Status().Patch(ctx, fence, rawMerge(facts))
	})
	return n
}

// state is what the node's fence says.
func (cp *controlPlane) state(ctx context.Context, name string) (v1alpha1.FenceSpec, error) {
	fence := &v1alpha1.Fence{}
	err := cp.Get(ctx, types.NamespacedName{Name: name}, fence)
	return fence.Spec, err
}

func (cp *controlPlane) awaitState(t *testing.T, name string, want v1alpha1.FenceState) v1alpha1.FenceSpec {
	t.Helper()
	var spec v1alpha1.FenceSpec
	controlplane.Eventually(t, fmt.Sprintf("fence %s is %s", name, want), func(ctx context.Context) (err error) {
		spec, err = cp.state(ctx, name)
		if err == nil && spec.State != want {
			err = fmt.Errorf("it is %s", spec.State)
		}
		return err
	})
	return spec
}
