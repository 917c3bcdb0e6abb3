package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// dryRun is how far a command goes.
type dryRun string

func (d *dryRun) addFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(d), "dry-run", "none", `"client" only prints what would be asked for; "server" has the API server check it, too, without keeping it.`)
	_ = cmd.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, noFiles))
}

func (d dryRun) check() error {
	if !slices.Contains([]string{"", "none", "client", "server"}, string(d)) {
		return usage("--dry-run %q is not known; use none, client or server", string(d))
	}
	return nil
}

// on is whether nothing is to be changed; client whether the API server is not asked to.
func (d dryRun) on() bool     { return d == "client" || d == "server" }
func (d dryRun) client() bool { return d == "client" }

// note ends a line about what was, or would be, done.
func (d dryRun) note() string {
	switch d {
	case "client":
		return " (dry run)"
	case "server":
		return " (server dry run)"
	}
	return ""
}

// attempts is how often a Migration is made anew when another one was created meanwhile.
const attempts = 5

// alreadyMoves is the error for a pod that an open Migration is about.
type alreadyMoves struct{ migration *v1alpha1.Migration }

func (e *alreadyMoves) Error() string {
	m := e.migration
	text := fmt.Sprintf("pod %s/%s is moved already, by migration %s: %s; see %q", m.Namespace, m.Spec.Pod.Name, m.Name, stands(m),
		fmt.Sprintf("kubectl lifeboat describe migration %s -n %s", m.Name, m.Namespace))
	if cancelable(m) {
		text += fmt.Sprintf(", or give it up with %q", fmt.Sprintf("kubectl lifeboat cancel %s -n %s", m.Name, m.Namespace))
	}
	return text
}

// ask creates the Migration that moves a pod.
func (c *cluster) ask(ctx context.Context, pod *corev1.Pod, move v1alpha1.Move, now time.Time, dry dryRun) (*v1alpha1.Migration, error) {
	for range attempts {
		var known v1alpha1.MigrationList
		if err := c.List(ctx, &known, client.InNamespace(pod.Namespace)); err != nil {
			return nil, failed(err, "list migrations of namespace %s", pod.Namespace)
		}
		if m := openOf(pod, known.Items); m != nil {
			return m, &alreadyMoves{m}
		}
		checkpoint := &v1alpha1.Checkpoint{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint); apierrors.IsNotFound(err) {
			checkpoint = nil
		} else if err != nil {
			return nil, failed(err, "read the checkpoint of pod %s/%s", pod.Namespace, pod.Name)
		}
		m := v1alpha1.NewMove(pod, move, v1alpha1.NextEpoch(pod, checkpoint, known.Items), now)
		if dry.client() {
			return m, nil
		}
		var options []client.CreateOption
		if dry.on() {
			options = append(options, client.DryRunAll)
		}
		err := c.Create(ctx, m, options...)
		if err == nil {
			return m, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, failed(err, "create the migration of pod %s/%s", pod.Namespace, pod.Name)
		}
	}
	return nil, fmt.Errorf("pod %s/%s: other migrations were created again and again meanwhile; see %q, and try again",
		pod.Namespace, pod.Name, "kubectl lifeboat migrations -n "+pod.Namespace)
}

// takenUpWithin is how long the watcher may take to do something about a Migration
// before somebody should look after it.
const takenUpWithin = 10 * time.Second

// followed is one Migration whose end is waited for.
type followed struct {
	*v1alpha1.Migration
	progress
	// seen is whether the API still had it when it was listed; deleted whether it is gone.
	seen, deleted bool
}

func (f *followed) done() bool { return f.deleted || !f.Open() }

// gone notes that the Migration was deleted before it had a result.
func (f *followed) gone(out io.Writer) {
	f.deleted = true
	fprintf(out, "Migration %s/%s was deleted before it had a result.\n", f.Namespace, f.Name)
}

// follow waits until Migrations are closed, and tells people on out how they go on. It
// returns them as they were seen last, and why it waits no longer, if they are not all
// closed.
func (c *cluster) follow(ctx context.Context, out io.Writer, migrations []*v1alpha1.Migration) ([]*followed, error) {
	all := map[types.UID]*followed{}
	var list []*followed
	prefixes := prefixes(migrations)
	for i, m := range migrations {
		f := &followed{Migration: m, progress: progress{out: out, prefix: prefixes[i]}}
		all[m.UID], list = f, append(list, f)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes := c.observe(ctx, &v1alpha1.MigrationList{}, scopeOf(migrations)...)
	late := time.NewTimer(takenUpWithin)
	defer late.Stop()
	open := func() bool { return slices.ContainsFunc(list, func(f *followed) bool { return !f.done() }) }
	for open() {
		select {
		case <-ctx.Done():
			return list, stopped(ctx)
		case <-late.C:
			if !slices.ContainsFunc(list, func(f *followed) bool { return f.Status.Phase != "" || f.Status.Held != nil || f.done() }) {
				fprintf(out, "Nobody has taken it up for %s. Does the watcher run? kubectl get pods -n %s\n", takenUpWithin, v1alpha1.SystemNamespace)
			}
		case change, ok := <-changes:
			if !ok {
				return list, stopped(ctx)
			}
			if change.kind == watch.Bookmark {
				// Those that the first list lacks are gone.
				for _, f := range list {
					if !f.seen {
						f.gone(out)
					}
				}
				continue
			}
			if change.kind == watch.Error {
				if change.lasting {
					return list, failed(change.err, "follow the migrations")
				}
				fprintf(out, "The API does not answer, and is asked again: %v\n", change.err)
				continue
			}
			m := change.object.(*v1alpha1.Migration)
			f := all[m.UID]
			if f == nil || f.done() {
				continue
			}
			f.Migration, f.seen = m, true
			f.show(m)
			switch {
			case !m.Open():
				fprintf(out, "%s\n", conclusion(m))
			case change.kind == watch.Deleted:
				f.gone(out)
			}
		}
	}
	return list, nil
}

// prefixes are by which people tell the lines of several Migrations apart: by the pod, and
// by its namespace where there are several.
func prefixes(migrations []*v1alpha1.Migration) []string {
	names := make([]string, len(migrations))
	if len(migrations) == 1 {
		return names
	}
	width := 0
	for i, m := range migrations {
		names[i] = m.Spec.Pod.Name
		if slices.ContainsFunc(migrations, func(other *v1alpha1.Migration) bool { return other.Namespace != m.Namespace }) {
			names[i] = m.Namespace + "/" + names[i]
		}
		width = max(width, len(names[i]))
	}
	for i := range names {
		names[i] += strings.Repeat(" ", width-len(names[i])+1)
	}
	return names
}

// scopeOf limits a list to one Migration's name, or to one namespace, where that does.
func scopeOf(migrations []*v1alpha1.Migration) []client.ListOption {
	first := migrations[0]
	if len(migrations) == 1 {
		return []client.ListOption{client.InNamespace(first.Namespace), client.MatchingFields{"metadata.name": first.Name}}
	}
	for _, m := range migrations {
		if m.Namespace != first.Namespace {
			return nil
		}
	}
	return []client.ListOption{client.InNamespace(first.Namespace)}
}

// finish is the exit status after Migrations were followed. Where they were not followed
// to their ends, it says on the error output what goes on in the cluster.
func (b base) finish(ends []*followed, err error) error {
	if err != nil {
		if Message(err) == "" { // a timeout, or an interrupt
			for _, f := range ends {
				if !f.done() {
					fprintf(b.streams.ErrOut, "%s\n", goesOn(f.Migration))
				}
			}
		}
		return err
	}
	status := ExitDone
	for _, f := range ends {
		if f.deleted {
			status = max(status, ExitFailed)
			continue
		}
		status = max(status, resultStatus(f.Status.Result))
	}
	return exitWith(status)
}

// withRefused adds to how a command ended that some pods were refused at once.
func withRefused(refused, err error) error {
	if refused == nil {
		return err
	}
	if message := Message(err); message != "" {
		refused = errors.Join(refused, err)
	}
	return &ended{max(ExitError, ExitStatus(err)), refused}
}

// names joins the names of pods, at most so many, for a sentence.
func names(pods []string, most int) string {
	if len(pods) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ", "), len(pods)-most)
	}
	return strings.Join(pods, ", ")
}
