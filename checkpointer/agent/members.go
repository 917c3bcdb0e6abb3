package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/identity"
	"github.com/lifeboat-dev/lifeboat/membership"
)

const (
	// membersSettle is how long a member that has just started may not know all the
	// others yet. The fencer goes by what an earlier agent told until then.
	membersSettle = 5 * time.Second
	// credentialsEvery is how often the fencer is handed a new certificate. One is
	// valid for a year.
	credentialsEvery = 30 * 24 * time.Hour
	// lookAtFence is how often it is looked whether the node's protected pods stand
	// still, and stoppedFor for how long they must have.
	lookAtFence = 250 * time.Millisecond
	stoppedFor  = time.Second
)

// joinMembers keeps the node a member, and the fencer informed. The other nodes'
// fences say where they are.
func (a *Agent) joinMembers(ctx context.Context, authority *identity.Authority) error {
	members, err := membership.New(membership.Config{
		Name: a.cfg.NodeName, Kind: membership.Checkpointer,
		BindAddr: a.cfg.NodeIP, AdvertiseAddr: a.cfg.NodeIP, Port: a.cfg.MemberPort,
		PeerAddress: net.JoinHostPort(a.cfg.NodeIP, strconv.Itoa(a.cfg.PeerPort)),
		Key:         authority.MemberKey(), Logger: a.log,
	})
	if err != nil {
		return fmt.Errorf("become a member: %w", err)
	}
	go a.informFencer(ctx, members, authority)
	return ended(ctx, "membership", members.Run(ctx, a.seeds))
}

// informFencer tells the node's fencer who its neighbours are, and hands it what it
// shows to them, until ctx ends.
func (a *Agent) informFencer(ctx context.Context, members *membership.Membership, authority *identity.Authority) {
	a.handCredentials(authority)
	renew := time.NewTicker(credentialsEvery)
	defer renew.Stop()
	var told map[string]string
	changes := (<-chan struct{})(nil) // not listened to before everybody is known
	settled := time.After(membersSettle)
	look := time.NewTicker(lookAtFence)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := members.TellStopped(a.stopped()); err != nil {
				a.log.Warn("tell the members whether protected pods stand still", "err", err)
			}
			continue
		case <-ctx.Done():
			return
		case <-renew.C:
			a.handCredentials(authority)
			continue
		case <-settled:
			changes = members.Changes()
		case <-changes:
		}
		alive := aliveCheckpointers(members.Members())
		if told != nil && maps.Equal(alive, told) {
			continue
		}
		if err := fence.PublishMembers(client.Folder, alive); err != nil {
			a.log.Error("tell the fencer which nodes are alive", "err", err)
			continue
		}
		told = alive
	}
}

// stopped says whether the node's protected pods have stood still for a moment
// because the node, which was permitted to run them, cannot ask any more. A node that
// was declared lost is not meant: the watcher knows of it.
func (a *Agent) stopped() bool {
	state, found, err := fence.ReadState(client.Folder)
	if err != nil {
		a.log.Warn("read whether the node may run protected pods", "err", err)
	}
	return found && state.State == v1alpha1.FenceRunning && fence.Now() >= state.PermittedUntil.Add(stoppedFor)
}

func (a *Agent) handCredentials(authority *identity.Authority) {
	credentials, err := authority.Credentials(a.cfg.NodeName)
	if err == nil {
		err = fence.PublishCredentials(client.Folder, credentials)
	}
	if err != nil {
		a.log.Error("hand the fencer a certificate; without it nobody vouches for the node in an outage of the API", "err", err)
	}
}

// aliveCheckpointers are the nodes on which a checkpointer is alive, or may be, and
// the IP address of each.
func aliveCheckpointers(members []membership.Member) map[string]string {
	alive := map[string]string{}
	for _, m := range members {
		if m.Kind != membership.Checkpointer || m.State != membership.Alive && m.State != membership.Suspect {
			continue
		}
		if host, _, err := net.SplitHostPort(m.Address); err == nil {
			alive[m.Name] = host
		}
	}
	return alive
}
