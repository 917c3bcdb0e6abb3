package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/keep"
)

const (
	// lookAtGuestsEvery is how often it is looked whether pods still have connections at
	// their former addresses.
	lookAtGuestsEvery = 5 * time.Second
	// unopened is how long a restore may take at most until its guest counts as left over.
	unopened = 10 * time.Minute
)

// guestsFolder has one note for each guest. Like the guest's routes it ends with the boot.
var guestsFolder = filepath.Join(client.Folder, "guests")

// guestNote is a guest, as the node's tmpfs keeps it for the next checkpointer.
type guestNote struct {
	keep.Guest
	Migration ctrlclient.ObjectKey `json:"migration"`
	PodUID    types.UID            `json:"podUID"`
	// AdmittedAt is when it was made, and Opened whether connections go on.
	AdmittedAt time.Time `json:"admittedAt"`
	Opened     bool      `json:"opened"`
}

func (g *guestNote) file() string { return filepath.Join(guestsFolder, g.Address.String()+".json") }

func (g *guestNote) write() error {
	raw, err := json.Marshal(g)
	if err == nil {
		err = os.MkdirAll(guestsFolder, 0o700)
	}
	if err == nil {
		err = writeDurably(g.file(), raw)
	}
	if err != nil {
		return fmt.Errorf("note down that address %s is here: %w", g.Address, err)
	}
	return nil
}

// guests are the notes of this node.
func (a *Agent) guests() ([]*guestNote, error) {
	files, err := filepath.Glob(filepath.Join(guestsFolder, "*.json"))
	if err != nil {
		return nil, err
	}
	var notes []*guestNote
	for _, file := range files {
		note := &guestNote{}
		raw, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(raw, note)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		notes = append(notes, note)
	}
	return notes, nil
}

func (a *Agent) guestsOf(pod types.UID) ([]*guestNote, error) {
	all, err := a.guests()
	var its []*guestNote
	for _, g := range all {
		if g.PodUID == pod {
			its = append(its, g)
		}
	}
	return its, err
}

// admitGuest gives a pod that is about to be restored its former address, where the
// generation has connections that are to be kept. Where that cannot be they are closed,
// and the Migration says why. r.mu is held.
func (a *Agent) admitGuest(ctx context.Context, r *restore, req client.CreateRequest) {
	m := r.migration
	if r.guest != nil || r.status.Connections != nil || !m.Planned() || m.Status.Source == nil || m.Status.Source.KeptAddress == "" {
		return
	}
	guest, err := a.makeGuest(ctx, r, req)
	r.status.Connections = &v1alpha1.KeptConnections{Address: m.Status.Source.KeptAddress}
	if err == nil {
		r.guest = guest
		a.log.Info("pod takes its address along", "pod", req.Namespace+"/"+req.PodName, "address", guest.Address)
		return
	}
	a.log.Warn("established connections are not kept", "pod", req.Namespace+"/"+req.PodName, "err", err)
	before, failed := a.guestsOf(types.UID(req.PodUID)) // as of a restore that turned out to be damaged
	for _, g := range before {
		failed = errors.Join(failed, a.remove(g))
	}
	if failed != nil {
		a.log.Error("take a former address away", "err", failed)
	}
	now := metav1.NewMicroTime(time.Now())
	r.status.Connections.EndedAt, r.status.Connections.Message = &now, err.Error()
}

func (a *Agent) makeGuest(ctx context.Context, r *restore, req client.CreateRequest) (*guestNote, error) {
	m := r.migration
	if last := m.Status.Source.Checkpoint; last == nil || last.Generation != r.opened.generation().Number {
		return nil, errors.New("the last generation could not be used, and connections of an older one would go back in time")
	}
	if m.Spec.SourceNode == a.cfg.NodeName {
		return nil, errors.New("the pod has come back to the node that it left")
	}
	g := &guestNote{Migration: ctrlclient.ObjectKeyFromObject(m), PodUID: types.UID(req.PodUID), AdmittedAt: time.Now()}
	var known bool
	if g.Source, known = a.addressOf(ctx, m.Spec.SourceNode); !known {
		return nil, fmt.Errorf("the address of node %s is not known", m.Spec.SourceNode)
	}
	ips, err := a.runtime.podIPs(ctx, req.SandboxID)
	if err != nil {
		return nil, err
	}
	var parse [2]error
	g.Address, parse[0] = netip.ParseAddr(m.Status.Source.KeptAddress)
	g.PodIP, parse[1] = netip.ParseAddr(ips[0])
	if g.NetNS, err = a.networkOf(req.Bundle); errors.Join(err, parse[0], parse[1]) != nil {
		return nil, errors.Join(err, parse[0], parse[1])
	}
	if !g.Address.Is4() || !g.Address.IsGlobalUnicast() || a.isNode(ctx, g.Address) {
		return nil, fmt.Errorf("%s is no address of a pod", g.Address)
	}
	if err := g.write(); err != nil { // first, so that it is taken away whatever comes
		return nil, err
	}
	if err := g.Admit(); err != nil {
		return nil, errors.Join(err, a.remove(g))
	}
	return g, nil
}

// openGuest lets connections go on: all of the pod's processes are back. r.mu is held.
func (a *Agent) openGuest(r *restore) {
	if r.guest == nil {
		return
	}
	if err := r.guest.Open(); err != nil {
		a.dismissGuest(r, err.Error())
		return
	}
	now := metav1.NewMicroTime(time.Now())
	r.status.Connections.OpenedAt = &now
	r.guest.Opened = true
	if err := r.guest.write(); err != nil {
		a.log.Error("note down that connections go on", "err", err)
	}
}

// dismissGuest ends what was made for connections, and notes why. r.mu is held.
func (a *Agent) dismissGuest(r *restore, why string) {
	if r.guest == nil {
		return
	}
	if err := a.remove(r.guest); err != nil {
		a.log.Error("take a former address away", "address", r.guest.Address, "err", err)
		return // runGuests does
	}
	now := metav1.NewMicroTime(time.Now())
	r.status.Connections.EndedAt, r.status.Connections.Message = &now, why
	r.guest = nil
}

func (a *Agent) remove(g *guestNote) error {
	if err := g.Dismiss(); err != nil {
		return err
	}
	if err := os.Remove(g.file()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// runGuests takes former addresses away from pods that have no connections there any more.
func (a *Agent) runGuests(ctx context.Context) error {
	lost := true
	for {
		if lost {
			err := a.tellLost(ctx)
			if lost = err != nil; lost && ctx.Err() == nil {
				a.log.Warn("tell which connections have ended with the boot", "err", err)
			}
		}
		guests, err := a.guests()
		if err != nil {
			a.log.Error("look at the former addresses of pods", "err", err)
		}
		for _, g := range guests {
			if err := a.lookAtGuest(ctx, g); err != nil && ctx.Err() == nil {
				a.log.Warn("look at the former address of a pod", "address", g.Address, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAtGuestsEvery):
		}
	}
}

// lookAtGuest ends a guest that nobody needs any more. The Migration is told first: the
// source goes by it, and what is told again does no harm.
func (a *Agent) lookAtGuest(ctx context.Context, g *guestNote) error {
	count, err := g.Connections()
	if err != nil {
		return err
	}
	if count > 0 && g.Opened || !g.Opened && (a.restoringPod(g.PodUID) || time.Since(g.AdmittedAt) < unopened) {
		return nil
	}
	if err := a.tellEnded(ctx, g.Migration, g.PodUID); err != nil {
		return err
	}
	a.log.Info("a pod has no connections at its former address any more", "address", g.Address, "migration", g.Migration)
	return a.remove(g)
}

// tellEnded writes into a Migration that a pod has no connections at its former address any
// more, unless it tells of another pod by now.
func (a *Agent) tellEnded(ctx context.Context, migration ctrlclient.ObjectKey, pod types.UID) error {
	return once(ctx, func(ctx context.Context) error {
		m := &v1alpha1.Migration{}
		if err := a.api.Get(ctx, migration, m); err != nil {
			return ctrlclient.IgnoreNotFound(err)
		}
		r := m.Status.Restore
		if r == nil || r.PodUID != pod || r.Connections == nil || r.Connections.EndedAt != nil {
			return nil
		}
		before, now := m.DeepCopy(), metav1.NewMicroTime(time.Now())
		r.Connections.EndedAt = &now
		patch := ctrlclient.MergeFromWithOptions(before, ctrlclient.MergeFromWithOptimisticLock{})
		return a.api.Status().Patch(ctx, m, patch, ctrlclient.FieldOwner("lifeboat-checkpointer"))
	})
}

// tellLost writes into the Migrations of this node's pods that their connections have ended
// with the boot.
func (a *Agent) tellLost(ctx context.Context) error {
	var all v1alpha1.MigrationList
	if err := a.cache.List(ctx, &all); err != nil {
		return fmt.Errorf("look for connections that have ended with the boot: %w", err)
	}
	guests, err := a.guests()
	if err != nil {
		return err
	}
	here := map[types.UID]bool{}
	for _, g := range guests {
		here[g.PodUID] = true
	}
	var errs []error
	for i := range all.Items {
		m := &all.Items[i]
		r, claim := m.Status.Restore, m.Status.Claim
		if claim == nil || claim.NodeName != a.cfg.NodeName || r == nil || r.Connections == nil || r.Connections.OpenedAt == nil || r.Connections.EndedAt != nil || here[r.PodUID] {
			continue
		}
		errs = append(errs, a.tellEnded(ctx, ctrlclient.ObjectKeyFromObject(m), r.PodUID))
	}
	return errors.Join(errs...)
}

func (a *Agent) restoringPod(pod types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restores[string(pod)] != nil
}

// keepsConnections is whether connections are restored as they were: only of the
// generation that the pod was stopped with. r.mu is held.
func (r *restore) keepsConnections() bool {
	return r.guest != nil && r.opened.generation().Number == r.migration.Status.Source.Checkpoint.Generation
}

// isNode is whether an address is one of a node: none of those may be led to a pod.
func (a *Agent) isNode(ctx context.Context, address netip.Addr) bool {
	var fences v1alpha1.FenceList
	if err := a.cache.List(ctx, &fences); err != nil {
		return true
	}
	return slices.ContainsFunc(fences.Items, func(f v1alpha1.Fence) bool {
		host, _, err := net.SplitHostPort(f.Status.Facts.PeerAddress)
		return err == nil && host == address.String()
	})
}
