package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// endTime is how long after the application's answer its whole state must have been sent.
const endTime = 2 * time.Second

// export writes the state of an application of this node that moves to the asker's. It
// is a transfer.Export.
func (a *Agent) export(ctx context.Context, key store.Key, migration, asker string, into io.Writer) error {
	m := &v1alpha1.Migration{}
	if err := once(ctx, func(ctx context.Context) error {
		return a.api.Get(ctx, ctrlclient.ObjectKey{Namespace: key.Namespace, Name: migration}, m)
	}); err != nil {
		return fmt.Errorf("read migration %s/%s: %w", key.Namespace, migration, err)
	}
	if !mayExport(m, a.cfg.NodeName, key.PodUID, asker) {
		return fmt.Errorf("migration %s/%s moves no application's state from node %s to node %s now", key.Namespace, migration, a.cfg.NodeName, asker)
	}
	pod := a.podHere(ctx, m.Namespace, m.Spec.Pod.Name, m.Spec.Pod.UID)
	if pod == nil {
		return fmt.Errorf("pod %s/%s is not on node %s any more", m.Namespace, m.Spec.Pod.Name, a.cfg.NodeName)
	}
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil {
		return err
	}
	if protection.StateExport == nil {
		return fmt.Errorf("the pod has no annotation %s", v1alpha1.AnnotationStateExport)
	}
	if protection.PreCheckpoint != nil {
		calls := &hookCalls{}
		err := a.callHook(ctx, pod, hookPreCheckpoint, protection.PreCheckpoint, calls)
		if !a.tellSource(ctx, m, v1alpha1.SourceStatus{Hooks: calls.results}) {
			err = errors.Join(err, ctx.Err())
		}
		if err != nil {
			return err
		}
	}
	in, err := a.hookContainer(ctx, pod, protection.StateExport)
	if err != nil {
		return err
	}
	ctx, cancel := hookTime(ctx, protection.StateExport)
	defer cancel()
	response, err := a.hooks.Do(ctx, http.MethodGet, protection.StateExport, in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(limited{ctx, into, a.copies.Wait}, response.Body); err != nil {
		return fmt.Errorf("read the application's state: %w", err)
	}
	return nil
}

// mayExport says whether an application's state is to be handed over now.
func mayExport(m *v1alpha1.Migration, node, podUID, asker string) bool {
	return !m.Staged() && partOf(m, asker, nil) == partImport && m.Spec.SourceNode == node && m.Spec.Pod.UID == types.UID(podUID)
}

// hookTime is the time that a hook has.
func hookTime(ctx context.Context, hook *v1alpha1.Hook) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, hook.Timeout, fmt.Errorf("it took longer than its timeout of %s", hook.Timeout))
}

// limited is a writer that writes no faster than copies may be sent.
type limited struct {
	ctx  context.Context
	into io.Writer
	wait func(ctx context.Context, bytes int) error
}

func (l limited) Write(p []byte) (int, error) {
	if err := l.wait(l.ctx, len(p)); err != nil {
		return 0, err
	}
	return l.into.Write(p)
}

// importState brings the state of an application from its old pod into the new one,
// which is on this node and ready. It returns whether it has told how that ended.
func (a *Agent) importState(ctx context.Context, seen *v1alpha1.Migration) (told bool) {
	m := &v1alpha1.Migration{}
	if err := once(ctx, func(ctx context.Context) error { return a.api.Get(ctx, ctrlclient.ObjectKeyFromObject(seen), m) }); err != nil {
		a.log.Warn("read a planned move before the application's state is imported", "migration", seen.Name, "err", err)
		return false
	}
	if partOf(m, a.cfg.NodeName, nil) != partImport {
		return false
	}
	pod := a.podHere(ctx, m.Namespace, m.Status.Claim.PodName, m.Status.Claim.PodUID)
	if pod == nil {
		return false
	}
	if m.Staged() {
		return a.importStaged(ctx, m, pod)
	}
	status := v1alpha1.RestoreStatus{PodUID: pod.UID, StartedAt: metav1.NewMicroTime(time.Now())}
	calls := &hookCalls{}
	a.handOver(ctx, m, pod, calls)
	if ctx.Err() != nil {
		return false // the next checkpointer begins anew
	}
	status.Hooks = calls.results
	for {
		_, err := a.patchRestore(ctx, m, status)
		if ctrlclient.IgnoreNotFound(err) == nil {
			return true
		}
		a.log.Warn("tell how the application's state was imported; trying again", "migration", m.Name, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tryAgain):
		}
	}
}

// handOver calls all hooks of an import.
func (a *Agent) handOver(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, calls *hookCalls) {
	began := time.Now()
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err == nil && protection.StateImport == nil {
		err = fmt.Errorf("the pod has no annotation %s", v1alpha1.AnnotationStateImport)
	}
	if err != nil {
		_ = a.noteHook(pod, hooks.Result(hookStateImport, "", "", 0, err), calls)
		return
	}
	exported, imported := a.carry(ctx, m, pod, protection.StateImport)
	to := containerOfHook(pod, protection.StateImport)
	_ = a.noteHook(pod, hooks.Result(hookStateExport, to, exported.text, time.Since(began), exported.err), calls)
	_ = a.noteHook(pod, hooks.Result(hookStateImport, to, imported.text, time.Since(began), imported.err), calls)
	if exported.err == nil && imported.err == nil {
		_ = a.callHook(ctx, pod, hookPostRestore, protection.PostRestore, calls)
	}
}

// ending is how one side of a handover ended.
type ending struct {
	text string
	err  error
}

// errNotImported is told of an export that nobody waited for to its end.
var errNotImported = errors.New("the state was not taken to its end")

// carry streams the state from the old pod's node into the new pod.
func (a *Agent) carry(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, into *v1alpha1.Hook) (exported, imported ending) {
	ctx, cancel := hookTime(ctx, into)
	defer cancel()
	fail := func(err error) (ending, ending) { return ending{err: err}, ending{err: errNotImported} }
	address, err := a.peerAddress(ctx, m.Spec.SourceNode)
	if err != nil {
		return fail(err)
	}
	in, err := a.hookContainer(ctx, pod, into)
	if err != nil {
		return ending{err: errNotImported}, ending{err: err}
	}
	handover, err := a.peers.Export(ctx, address, store.Key{Namespace: m.Namespace, PodUID: string(m.Spec.Pod.UID)}, m.Name)
	if err != nil {
		return fail(err)
	}
	defer handover.Close()
	body := newWhole(handover)
	response, err := a.hooks.Do(ctx, http.MethodPost, into, in, body)
	var answer string
	if err == nil {
		raw, readErr := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		answer, err = string(raw), errors.Join(readErr, response.Body.Close())
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	exported.err = body.end(endTime)
	if exported.err == nil {
		exported.text = fmt.Sprintf("%d bytes", handover.Bytes())
	}
	return exported, ending{text: answer, err: err}
}

// peerAddress is where a node's checkpointer is reached.
func (a *Agent) peerAddress(ctx context.Context, node string) (string, error) {
	fence := &v1alpha1.Fence{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKey{Name: node}, fence); err != nil {
		return "", fmt.Errorf("look up the checkpointer of node %s: %w", node, err)
	}
	if fence.Status.Facts.PeerAddress == "" {
		return "", fmt.Errorf("the checkpointer of node %s has not said where it is reached", node)
	}
	return fence.Status.Facts.PeerAddress, nil
}

// whole is a reader that knows whether it was read to its end. Where it was not the
// state arrived in part, whatever the application answered.
type whole struct {
	from  io.Reader
	ended chan error // has room for the one end
}

func newWhole(from io.Reader) *whole { return &whole{from, make(chan error, 1)} }

// Read implements io.Reader.
func (w *whole) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	if err != nil {
		select {
		case w.ended <- err:
		default:
		}
	}
	return n, err
}

// end returns how the reading ended, which may come a moment after the answer.
func (w *whole) end(within time.Duration) error {
	select {
	case err := <-w.ended:
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		return err
	case <-time.After(within):
		return errNotImported
	}
}

// resumeOldPod calls the post-restore hook of a pod whose state was exported, and that
// was not moved in the end: what its pre-checkpoint hook has held goes on. It returns
// whether it has told.
func (a *Agent) resumeOldPod(ctx context.Context, m *v1alpha1.Migration) (told bool) {
	pod := a.podHere(ctx, m.Namespace, m.Spec.Pod.Name, m.Spec.Pod.UID)
	if pod == nil {
		return true
	}
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil || protection.PostRestore == nil {
		return true
	}
	calls := &hookCalls{results: slices.Clone(m.Status.Source.Hooks)}
	_ = a.callHook(ctx, pod, hookPostRestore, protection.PostRestore, calls)
	return a.tellSource(ctx, m, v1alpha1.SourceStatus{Hooks: calls.results})
}

// isQuiet says whether the pre-checkpoint hook of an application was called for a move
// that is over and has not moved it, and no other hook since.
func isQuiet(m *v1alpha1.Migration) bool {
	if m.Spec.Strategy != v1alpha1.StrategyApplication || m.Open() || m.Reached(v1alpha1.PhaseDeleted) || m.Status.Source == nil {
		return false
	}
	called := hookCalls{results: m.Status.Source.Hooks}
	return called.called(hookPreCheckpoint) && !slices.ContainsFunc(called.results, func(r v1alpha1.HookResult) bool { return r.Name == hookPostRestore })
}
