package fence

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// TestPeersChangeRarely: whoever lives and is recorded stays; who is dead goes; the
// rest is filled up, never with the node itself; and asking again changes nothing.
func TestPeersChangeRarely(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.IntRange(0, 99), 0, 60, rapid.ID[int])
		name := func(i int) string { return fmt.Sprintf("n%02d", i) }
		alive := map[string]string{}
		for _, i := range names.Draw(t, "alive") {
			alive[name(i)] = "10.0.0.1"
		}
		var recorded []string
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 99), 0, v1alpha1.MaxPeers, rapid.ID[int]).Draw(t, "recorded") {
			if i != 0 {
				recorded = append(recorded, name(i))
			}
		}
		got := choosePeers("n00", recorded, alive)
		others := len(alive)
		if _, self := alive["n00"]; self {
			others--
		}
		if len(got) != min(others, v1alpha1.MaxPeers) {
			t.Fatalf("%d peers of %d", len(got), others)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || slices.Contains(got, "n00") {
			t.Fatalf("the peers are %q", got)
		}
		for _, peer := range got {
			if _, ok := alive[peer]; !ok {
				t.Fatalf("%s is dead, and a peer", peer)
			}
		}
		for _, peer := range recorded {
			if _, ok := alive[peer]; ok && !slices.Contains(got, peer) {
				t.Fatalf("%s is alive and recorded, and no peer any more", peer)
			}
		}
		if again := choosePeers("n00", got, alive); !slices.Equal(again, got) {
			t.Fatalf("asked again: %q, before: %q", again, got)
		}
	})
}

// TestPeersAreSpread: in a large cluster no node has to answer very many.
func TestPeersAreSpread(t *testing.T) {
	const nodes = 300
	alive, asked := map[string]string{}, map[string]int{}
	for i := range nodes {
		alive[fmt.Sprintf("node-%d.example", i)] = "10.0.0.1"
	}
	for node := range alive {
		for _, peer := range choosePeers(node, nil, alive) {
			asked[peer]++
		}
	}
	if most := slices.Max(slices.Collect(maps.Values(asked))); most > 2*v1alpha1.MaxPeers {
		t.Errorf("one node has to answer %d others", most)
	}
}

// TestWhatTheAgentTold: the fencer takes in what changes, keeps what it knows when
// nothing new can be read, and keeps its key to itself.
func TestWhatTheAgentTold(t *testing.T) {
	folder := t.TempDir()
	n := newNeighbours(folder, slog.New(slog.DiscardHandler))
	if n.wanted("n1", nil) != nil {
		t.Error("peers are wanted though the agent has told nothing")
	}
	if _, err := n.serverConfig(); err == nil {
		t.Error("there is a certificate though the agent has handed over none")
	}
	authority, err := identity.Ensure(t.Context(), fake.NewClientset(), "lifeboat-system")
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := authority.Credentials("n1")
	if err != nil {
		t.Fatal(err)
	}
	tell := func(alive map[string]string) {
		t.Helper()
		if err := PublishMembers(folder, alive); err != nil {
			t.Fatal(err)
		}
		n.look()
	}
	if err := PublishCredentials(folder, credentials); err != nil {
		t.Fatal(err)
	}
	tell(map[string]string{"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"})
	if got := n.wanted("n1", nil); !slices.Equal(got, []string{"n2", "n3"}) {
		t.Errorf("wanted peers are %q", got)
	}
	if _, err := n.serverConfig(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(folder, credentialsFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file is %v, %v", info.Mode(), err)
	}
	tell(map[string]string{"n3": "10.0.0.4"})
	if got := n.wanted("n1", []string{"n2", "n3"}); !slices.Equal(got, []string{"n3"}) {
		t.Errorf("after a death the wanted peers are %q", got)
	}
	if n.known["n2"] != "10.0.0.2" || n.known["n3"] != "10.0.0.4" {
		t.Errorf("the known addresses are %v", n.known)
	}
	if err := os.WriteFile(filepath.Join(folder, membersFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.look()
	if got := n.wanted("n1", nil); !slices.Equal(got, []string{"n3"}) {
		t.Errorf("after an unreadable file the wanted peers are %q", got)
	}
	// All others dead is something else than nothing known.
	tell(map[string]string{})
	if got := n.wanted("n1", []string{"n3"}); got == nil || len(got) != 0 {
		t.Errorf("alone, the wanted peers are %#v", got)
	}
}
