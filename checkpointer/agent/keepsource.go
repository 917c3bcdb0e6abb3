package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/keep"
)

// lookAtLoansEvery is how often the addresses are looked at that this node keeps for pods of
// others, when no Migration changes.
const lookAtLoansEvery = 5 * time.Second

// speakTime bounds how long it is tried to make a pod speak again.
const speakTime = 5 * time.Second

// keptConnections is what the source of a move does for established connections.
type keptConnections struct {
	// Address is the pod's, Sandbox its sandbox, and NetNS the path of its network.
	Address netip.Addr `json:"address"`
	Sandbox string     `json:"sandbox"`
	NetNS   string     `json:"netNS"`
}

// notAllowed is an error that the pod's owner can mend.
type notAllowed struct{ error }

func reasonOf(err error) string {
	var owners notAllowed
	if errors.As(err, &owners) {
		return v1alpha1.ReasonNotAllowed
	}
	return ""
}

// keeping finds what a move has to do for the pod's established connections, nil for
// nothing, or says why they cannot be kept though the pod asks for it.
func (a *Agent) keeping(ctx context.Context, m *v1alpha1.Migration, state podState) (*keptConnections, error) {
	if state.protection.Connections != v1alpha1.ConnectionsKeep || !m.Planned() {
		return nil, nil
	}
	refuse := func(err error) (*keptConnections, error) {
		return nil, notAllowed{fmt.Errorf("established connections cannot be kept, as annotation %s: %q asks for: %w", v1alpha1.AnnotationConnections, v1alpha1.ConnectionsKeep, err)}
	}
	target, err := a.runtime.target(ctx, a.host, state.pod)
	if err != nil {
		return nil, err
	}
	first := target.Containers[0]
	ips, err := a.runtime.podIPs(ctx, first.Container.SandboxID)
	if err != nil {
		return nil, err
	}
	k := &keptConnections{Sandbox: first.Container.SandboxID}
	if k.NetNS, err = a.networkOf(first.BundleDir); err != nil {
		return nil, err
	}
	if k.Address, err = netip.ParseAddr(ips[0]); err != nil {
		return nil, err
	}
	if state.pod.Spec.HostNetwork || len(ips) != 1 || !k.Address.Is4() {
		return refuse(fmt.Errorf("the pod has the addresses %v, and it takes one of IPv4 that is its own", ips))
	}
	guests, err := a.guestsOf(state.pod.UID)
	for _, g := range guests {
		err = errors.Join(err, a.lookAtGuest(ctx, g)) // its last connection may just have ended
	}
	if len(guests) > 0 && err == nil {
		guests, err = a.guestsOf(state.pod.UID)
	}
	if err != nil {
		return nil, err
	}
	if len(guests) > 0 {
		return refuse(fmt.Errorf("the pod still has connections at %s, the address that it had before its last move", guests[0].Address))
	}
	if _, err := keep.Given(a.host.Root, k.Address, k.Sandbox); err != nil {
		return refuse(err)
	}
	if _, err := keep.Cable(k.Address); err != nil {
		return refuse(err)
	}
	if node, known := a.targetOf(ctx, m); known {
		if _, err := keep.Neighbour(node); err != nil {
			return refuse(err)
		}
	}
	return k, nil
}

func (k *keptConnections) silence() error { return keep.Silence(k.NetNS) }

// speak tries for a while, also when ctx has ended: a pod that runs must not stay silent.
func (k *keptConnections) speak(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), speakTime)
	defer cancel()
	for {
		err := keep.Unsilence(k.NetNS)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(tryAgain):
		}
	}
}

// held makes a pod speak again when it is let go.
func (k *keptConnections) held(pod held) held {
	if k == nil {
		return pod
	}
	return silentPod{pod, k}
}

type silentPod struct {
	held
	kept *keptConnections
}

func (s silentPod) Release(ctx context.Context) error {
	return errors.Join(s.held.Release(ctx), s.kept.speak(ctx))
}

// lend reserves the pod's address before the pod is killed. What comes for it is sent on
// by runLoans.
func (a *Agent) lend(k *keptConnections, m *v1alpha1.Migration) error {
	r, err := keep.Given(a.host.Root, k.Address, k.Sandbox)
	if err != nil {
		return err
	}
	return r.Reserve(ownerOf(m))
}

// takeBack undoes lend, for a pod that goes on here.
func (a *Agent) takeBack(k *keptConnections) error {
	r, err := keep.Given(a.host.Root, k.Address, k.Sandbox)
	if err != nil || r.Owner == "" {
		return nil //nolint:nilerr // it was not lent
	}
	return r.GiveBack()
}

// speakAgain lets pods speak that an earlier checkpointer has silenced and not stopped.
func (a *Agent) speakAgain(ctx context.Context) {
	for _, note := range a.stops.all() {
		if note.Kept == nil || note.Committed {
			continue
		}
		if err := errors.Join(note.Kept.speak(ctx), a.takeBack(note.Kept)); err != nil {
			a.log.Error("let a pod speak that is not stopped for its move", "migration", note.Migration, "err", err)
		}
	}
}

func ownerOf(m *v1alpha1.Migration) string {
	return m.Namespace + "/" + m.Name + "/" + string(m.UID)
}

// targetOf is the address of the node that a move goes to, as far as that is known.
func (a *Agent) targetOf(ctx context.Context, m *v1alpha1.Migration) (netip.Addr, bool) {
	name := m.Spec.TargetNode
	if current := a.cachedMigration(ctx, m); current != nil && current.Status.Claim != nil {
		name = current.Status.Claim.NodeName
	}
	if name == "" || name == a.cfg.NodeName {
		return netip.Addr{}, false
	}
	return a.addressOf(ctx, name)
}

// addressOf is the address of a node, as its fence has it.
func (a *Agent) addressOf(ctx context.Context, node string) (netip.Addr, bool) {
	var fence v1alpha1.Fence
	if err := a.cache.Get(ctx, ctrlclient.ObjectKey{Name: node}, &fence); err != nil {
		return netip.Addr{}, false
	}
	host, _, err := net.SplitHostPort(fence.Status.Facts.PeerAddress)
	if err != nil {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(host)
	return address, err == nil && address.Is4()
}

// runLoans sends on what is for the addresses that this node keeps for pods which were
// moved away, and makes the addresses free again. All it knows is what is noted with the
// reservations, so it goes on after a restart and after a boot.
func (a *Agent) runLoans(ctx context.Context) error {
	for {
		changed := a.changes.wait()
		loans, err := keep.Reservations(a.host.Root)
		if err != nil {
			a.log.Error("look for addresses that are kept for other nodes", "err", err)
		}
		for _, loan := range loans {
			if err := a.serveLoan(ctx, loan); err != nil && ctx.Err() == nil {
				a.log.Warn("an address is kept for a pod that was moved", "address", loan.Address, "err", err)
			}
		}
		if len(loans) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(lookAtLoansEvery):
		}
	}
}

// serveLoan does what a reservation needs now.
func (a *Agent) serveLoan(ctx context.Context, loan *keep.Reservation) error {
	if note := a.noteOfSandbox(loan.Sandbox); note != nil && !note.Committed {
		return nil // its pod is about to be stopped, or goes on
	}
	m, over, err := a.borrower(ctx, loan)
	switch {
	case err != nil:
		return err
	case over:
		a.log.Info("an address that was kept for connections is free again", "address", loan.Address, "migration", loan.Owner)
		if err := keep.Unforward(loan.Address); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(a.host.Root, containerdSandboxs, loan.Sandbox)); err == nil {
			return loan.GiveBack() // the CNI plugin makes it free when the sandbox ends
		}
		return loan.Release()
	}
	node, _ := a.targetOf(ctx, m)
	return keep.Forward(loan.Address, node)
}

func (a *Agent) noteOfSandbox(sandbox string) *stopNote {
	for _, note := range a.stops.all() {
		if note.Kept != nil && note.Kept.Sandbox == sandbox {
			return &note
		}
	}
	return nil
}

// borrower returns the Migration that an address is kept for, or that it is over.
func (a *Agent) borrower(ctx context.Context, loan *keep.Reservation) (m *v1alpha1.Migration, over bool, err error) {
	namespace, name, uid := splitOwner(loan.Owner)
	m = &v1alpha1.Migration{}
	err = once(ctx, func(ctx context.Context) error {
		return a.api.Get(ctx, ctrlclient.ObjectKey{Namespace: namespace, Name: name}, m)
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, true, nil
	case err != nil:
		return nil, false, err
	case m.UID != uid || loanOver(m):
		return m, true, nil
	case m.Open():
		return m, false, nil
	}
	pod := &corev1.Pod{}
	err = once(ctx, func(ctx context.Context) error {
		return a.api.Get(ctx, ctrlclient.ObjectKey{Namespace: namespace, Name: m.Status.Claim.PodName}, pod)
	})
	if apierrors.IsNotFound(err) {
		return m, true, nil
	}
	return m, err == nil && pod.UID != m.Status.Claim.PodUID, err
}

// loanOver is whether nobody needs an address any more, as far as its Migration tells.
func loanOver(m *v1alpha1.Migration) bool {
	if r := m.Status.Restore; r != nil && r.Connections != nil && r.Connections.EndedAt != nil {
		return true
	}
	kept := m.Status.Restore != nil && m.Status.Restore.Connections != nil
	return !m.Open() && (!kept || m.Status.Claim == nil || m.Status.Result != v1alpha1.ResultRestored)
}

func splitOwner(owner string) (namespace, name string, uid types.UID) {
	dir, last := filepath.Split(owner)
	return filepath.Dir(filepath.Clean(dir)), filepath.Base(dir), types.UID(last)
}
