package fence

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission/peers"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// What the checkpointer's agent tells the fencer, as files in the folder that they
// share. The fencer can start, and go on, without the agent and without the API.
const (
	membersFile     = "members.json"
	credentialsFile = "peer-credentials.json"
)

// PublishMembers tells the fencer of this node which other checkpointers are alive,
// and the IP address of each. The agent calls it when that has changed.
func PublishMembers(folder string, alive map[string]string) error {
	return writeJSON(filepath.Join(folder, membersFile), 0o644, alive)
}

// PublishCredentials hands the fencer of this node what it shows to its peers.
func PublishCredentials(folder string, credentials identity.Credentials) error {
	return writeJSON(filepath.Join(folder, credentialsFile), 0o600, credentials)
}

// lookEvery is how often the fencer looks whether the agent has told something new.
const lookEvery = 500 * time.Millisecond

// neighbours is what the fencer knows of other nodes, and how it asks them. It is
// safe for concurrent use.
type neighbours struct {
	folder string
	log    *slog.Logger

	mu      sync.Mutex
	alive   map[string]string // nil until the agent has told
	known   map[string]string // the last known address of every node that was told of
	server  *tls.Config       // nil until there are credentials
	client  *peers.Client
	changed map[string]os.FileInfo
}

func newNeighbours(folder string, log *slog.Logger) *neighbours {
	n := &neighbours{folder: folder, log: log, known: map[string]string{}, changed: map[string]os.FileInfo{}}
	n.look()
	return n
}

// watch looks again and again until ctx ends.
func (n *neighbours) watch(ctx context.Context) {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			n.look()
		case <-ctx.Done():
			return
		}
	}
}

// look takes in what has changed.
func (n *neighbours) look() {
	var alive map[string]string
	if n.reread(membersFile, &alive) && alive != nil {
		n.mu.Lock()
		n.alive = alive
		maps.Copy(n.known, alive)
		n.mu.Unlock()
	}
	var credentials identity.Credentials
	if n.reread(credentialsFile, &credentials) {
		server, client, err := credentials.TLS()
		if err != nil {
			n.log.Error("what the agent left to reach peers with cannot be used; restart the agent", "err", err)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.client != nil {
			n.client.Close()
		}
		n.server, n.client = server, peers.NewClient(client)
	}
}

// reread reads a file that is not the one that was read last, and says whether it did.
func (n *neighbours) reread(name string, into any) bool {
	path := filepath.Join(n.folder, name)
	info, err := os.Stat(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			n.log.Error("look for what the agent told", "err", err)
		}
		return false
	}
	before := n.changed[name]
	if before != nil && os.SameFile(before, info) && before.ModTime().Equal(info.ModTime()) {
		return false
	}
	n.changed[name] = info
	if _, err := readJSON(path, into); err != nil {
		n.log.Error("read what the agent told", "err", err)
		return false
	}
	return true
}

// serverConfig is the TLS configuration for who asks this node.
func (n *neighbours) serverConfig() (*tls.Config, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return nil, errors.New("the agent has not handed over a certificate yet")
	}
	return n.server, nil
}

// ask asks peers to vouch for a node, until ctx ends, and returns those that do.
func (n *neighbours) ask(ctx context.Context, node string, peers []string) (vouched []string) {
	n.mu.Lock()
	client, addresses := n.client, map[string]string{}
	for _, peer := range peers {
		if address, ok := n.known[peer]; ok {
			addresses[peer] = address
		}
	}
	n.mu.Unlock()
	if client == nil {
		return nil
	}
	return client.Vouch(ctx, addresses, node, (len(peers)+1)/2)
}

// wanted are the peers that a node's record should have, nil where that is not
// known yet. Recorded are those that it has.
func (n *neighbours) wanted(node string, recorded []string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alive == nil {
		return nil
	}
	return choosePeers(node, recorded, n.alive)
}

// choosePeers returns the peers for a node, sorted: of the alive nodes those that
// are recorded already, so that the record changes rarely, and as many others as
// there is room for. Each node prefers others in an order of its own, so that no
// node has to answer all the others.
func choosePeers(node string, recorded []string, alive map[string]string) []string {
	candidates := make([]string, 0, len(alive))
	for name := range alive {
		if name != node {
			candidates = append(candidates, name)
		}
	}
	slices.SortFunc(candidates, func(a, b string) int {
		return cmp.Or(
			-compareBool(slices.Contains(recorded, a), slices.Contains(recorded, b)),
			cmp.Compare(preference(node, a), preference(node, b)),
			cmp.Compare(a, b))
	})
	chosen := candidates[:min(len(candidates), v1alpha1.MaxPeers)]
	slices.Sort(chosen)
	return chosen
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// preference is rendezvous hashing.
func preference(node, peer string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "/" + peer))
	return h.Sum64()
}
