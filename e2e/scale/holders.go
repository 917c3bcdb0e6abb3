package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/client-go/kubernetes"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// holders answer for the checkpointers of all nodes which generations they hold.
// Each node has an address of its own on the loopback network, and nobody else
// listens there.
type holders struct {
	peerv1.UnimplementedPeerServer
	port string
	// asked is how often any of them was asked.
	asked atomic.Int64
	// held are the holders of a pod's newest generation, by the pod's UID. It does not
	// change once the watcher runs.
	held map[string][]string
}

func nodeIP(i int) string { return fmt.Sprintf("127.%d.%d.%d", 1+i>>16, i>>8&0xff, i&0xff) }

func (h *holders) address(i int) string { return net.JoinHostPort(nodeIP(i), h.port) }

// startHolders serves the peer protocol of n nodes, the first of which is lost: nobody
// answers for it.
func startHolders(s *scope, p *plane, n int) (*holders, error) {
	clientset, err := kubernetes.NewForConfig(p.Config(controlplane.AdminToken))
	if err != nil {
		return nil, err
	}
	authority, err := identity.Ensure(s.ctx, clientset, v1alpha1.SystemNamespace)
	if err != nil {
		return nil, err
	}
	served, err := authority.ServerTLS("scale")
	if err != nil {
		return nil, err
	}
	h := &holders{port: controlplane.FreePort(s), held: map[string][]string{}}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(served)))
	peerv1.RegisterPeerServer(server, h)
	s.Cleanup(server.Stop)
	for i := 1; i < n; i++ {
		listener, err := new(net.ListenConfig).Listen(s.ctx, "tcp", h.address(i))
		if err != nil {
			return nil, fmt.Errorf("answer for node %s: %w", nodeName(i), err)
		}
		go server.Serve(listener) //nolint:errcheck // it ends with the server
	}
	return h, nil
}

// Held answers for the node whose address was asked.
func (h *holders) Held(ctx context.Context, request *peerv1.HeldRequest) (*peerv1.HeldResponse, error) {
	h.asked.Add(1)
	response := &peerv1.HeldResponse{}
	from, ok := peer.FromContext(ctx)
	if !ok || from.LocalAddr == nil {
		return nil, fmt.Errorf("the asked address is not known")
	}
	if slices.Contains(h.held[request.GetPod().GetPodUid()], from.LocalAddr.String()) {
		response.Generations = []*peerv1.Generation{{Number: generation, Epoch: 1, TakenAt: timestamppb.Now(), Bytes: 64 << 20, Containers: []string{"main"}}}
	}
	return response, nil
}
