package matrix

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

var (
	generations = flag.Int64("generations", 10, "how many generations in a row each program has before its node is lost")
	only        = flag.String("programs", "", "run these programs only, as redis,nginx")
)

const (
	// interval is the time between two checkpoints of a program.
	interval = 2 * time.Second
	// patience bounds a wait for the cluster, checkLimit one for a program, and
	// stall one for the next generation.
	patience   = 3 * time.Minute
	checkLimit = time.Minute
	stall      = time.Minute
	// placement is the label of the nodes that programs may run on.
	placement = "e2e.lifeboat.dev/matrix"
	// source is the node that is lost.
	source        = "n1"
	programsImage = "lifeboat.dev/programs:dev"
)

// packages are Debian's, with all programs of the matrix.
var packages = []string{"redis-server", "memcached", "postgresql", "nginx", "python3", "default-jdk-headless", "socat"}

// programs are those of the matrix, by name.
func programs() map[string]program {
	return map[string]program{
		"redis": &redis{}, "memcached": &memcached{}, "postgres": &postgres{}, "nginx": &nginx{},
		"python": python(), "java": java(), "pipeline": &pipeline{},
	}
}

// lab is the cluster that the programs run on.
type lab struct {
	// ctx ends with the test, or when it is interrupted.
	ctx     context.Context
	cluster *cluster.Cluster
	api     client.Client
}

func TestProgramsOutliveTheirNode(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster, which -short does without")
	}
	subjects := selected(t)
	l := startLab(t)
	for _, s := range subjects {
		s.lab = l
	}
	t.Cleanup(func() { l.clean(t, subjects) })
	l.allow(t, source)
	each(subjects, (*subject).start)
	l.allow(t, "n2", "n3")
	l.follow(t, subjects)
	l.lose(t, subjects)

	verdicts := map[string]string{}
	for _, s := range subjects {
		verdicts[s.name] = "LOST"
		if t.Run(s.name, s.judge) {
			verdicts[s.name] = "outlived its node"
		}
	}
	t.Logf("%s between checkpoints, %d generations in a row\n%s", interval, *generations, table(subjects, verdicts))
}

// selected are the programs to run, in order of their names.
func selected(t *testing.T) []*subject {
	t.Helper()
	all := programs()
	names := slices.Sorted(maps.Keys(all))
	if *only != "" {
		names = strings.Split(*only, ",")
	}
	subjects := make([]*subject, len(names))
	for i, name := range names {
		if all[name] == nil {
			t.Fatalf("-programs: there is no program %q, only %v", name, slices.Sorted(maps.Keys(all)))
		}
		subjects[i] = &subject{program: all[name], name: name, namespace: "matrix-" + name + "-" + rand.String(5)}
	}
	return subjects
}

// startLab starts the cluster and loads the programs' image into its nodes.
func startLab(t *testing.T) *lab {
	t.Helper()
	// An interrupt ends the test, but not before the cluster is gone.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	begin := time.Now()
	config := cluster.Config{Name: "matrix", Progress: func(step string) {
		fmt.Printf("  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}
	folder, err := config.Folder()
	if err != nil {
		t.Fatal(err)
	}
	config.Progress("building the programs' image")
	archive, err := image.FromDebian(ctx, filepath.Join(folder, "cache"), programsImage, packages, []string{"bash"})
	if err != nil {
		t.Fatal(err)
	}
	attach := os.Getenv("LIFEBOAT_LAB_ATTACH") == "1"
	start := deploy.Start
	if attach {
		config.Name = os.Getenv("LIFEBOAT_LAB_NAME")
		start = deploy.Attach
	}
	l := &lab{ctx: ctx}
	if l.cluster, l.api, err = start(ctx, config); err != nil {
		t.Fatal(err)
	}
	if !attach {
		t.Cleanup(func() {
			if err := deploy.Stop(l.cluster); err != nil {
				t.Errorf("stop the cluster: %v", err)
			} else if left, err := l.cluster.Leftovers(); err != nil || len(left) > 0 {
				t.Errorf("the cluster left behind: %s %v", strings.Join(left, ", "), err)
			}
		})
	}
	config.Progress("loading the programs' image")
	if err := l.cluster.LoadImage(ctx, archive); err != nil {
		t.Fatal(err)
	}
	config.Progress("starting the programs")
	return l
}

// each calls f for all subjects at once, and notes what goes wrong with one.
func each(subjects []*subject, f func(*subject) error) {
	var all sync.WaitGroup
	for _, s := range subjects {
		all.Go(func() {
			if s.err == nil {
				s.err = f(s)
			}
		})
	}
	all.Wait()
}

// allow lets the programs run on nodes.
func (l *lab) allow(t *testing.T, nodes ...string) {
	t.Helper()
	for _, name := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+placement+`":""}}}`))
		if err := l.api.Patch(l.ctx, node, patch); err != nil {
			t.Fatalf("label node %s: %v", name, err)
		}
	}
}

// follow waits until each program has as many generations in a row as asked for,
// or will not have them.
func (l *lab) follow(t *testing.T, subjects []*subject) {
	t.Helper()
	var waiting []*subject
	for _, s := range subjects {
		if s.err == nil {
			waiting = append(waiting, s)
		}
	}
	for deadline := time.Now(); len(waiting) > 0; {
		var checkpoints v1alpha1.CheckpointList
		all, err := l.scrape(l.ctx, source)
		if err == nil {
			err = l.api.List(l.ctx, &checkpoints)
		}
		if err == nil {
			deadline = time.Now().Add(stall)
			waiting = slices.DeleteFunc(waiting, func(s *subject) bool {
				return s.observe(all[s.namespace], checkpointOf(&checkpoints, s.pod), *generations)
			})
		} else if time.Now().After(deadline.Add(stall)) || l.ctx.Err() != nil {
			t.Fatalf("follow the checkpoints: %v", err)
		}
		time.Sleep(observe.PollEvery)
	}
	for _, s := range subjects {
		if s.err != nil {
			continue
		}
		if failed := s.now.minus(s.base).failed; failed > 0 {
			s.err = fmt.Errorf("%.0f checkpoints failed among %d generations: %s", failed, *generations, l.failures(source, s.namespace))
		} else if err := s.load.failure(); err != nil {
			s.err = fmt.Errorf("a client's connection did not last through the checkpoints: %w", err)
		} else if err := s.load.idleFailure(); err != nil {
			s.err = fmt.Errorf("an idle client's connection did not last through the checkpoints: %w", err)
		}
		var err error
		if s.processes, err = l.countProcesses(s.pod); err != nil {
			t.Error(err)
		}
	}
}

func checkpointOf(list *v1alpha1.CheckpointList, pod *corev1.Pod) *v1alpha1.Checkpoint {
	for i, c := range list.Items {
		if c.Namespace == pod.Namespace && c.Name == pod.Name {
			return &list.Items[i]
		}
	}
	return nil
}

// countProcesses counts a pod's processes, without the one that holds its namespaces.
func (l *lab) countProcesses(pod *corev1.Pod) (int, error) {
	ctx, cancel := context.WithTimeout(l.ctx, checkLimit)
	defer cancel()
	output, err := l.cluster.NodeExec(ctx, pod.Spec.NodeName, "sh", "-c",
		"find /sys/fs/cgroup -path '*pod"+string(pod.UID)+"/*' -name cgroup.procs -exec cat {} + | sort -u | wc -l")
	if err != nil {
		return 0, fmt.Errorf("count the processes of pod %s: %w", pod.Name, err)
	}
	count, err := strconv.Atoi(strings.TrimSpace(string(output)))
	return count - 1, err
}

// lose takes the power from the programs' node, with their clients at work, and
// waits for what comes back.
func (l *lab) lose(t *testing.T, subjects []*subject) {
	t.Helper()
	if err := l.cluster.PowerOff(l.ctx, source); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, s := range subjects {
		all.Go(func() {
			if s.load != nil {
				s.acks = s.load.end()
			}
			if s.pod == nil {
				return
			}
			if err := s.recovered(); err != nil {
				s.err = errors.Join(s.err, fmt.Errorf("recovery: %w", err))
			}
		})
	}
	all.Wait()
}

// clean says in what state everything is when the test has failed. On a cluster that
// goes on, it undoes what the test did.
func (l *lab) clean(t *testing.T, subjects []*subject) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if t.Failed() {
		l.dump(ctx, t)
	}
	if os.Getenv("LIFEBOAT_LAB_ATTACH") != "1" {
		return
	}
	if err := l.cluster.PowerOn(ctx, source); err != nil {
		t.Error(err)
	}
	for _, s := range subjects {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
		if err := l.api.Delete(ctx, namespace); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+placement+`":null}}}`))
		if err := l.api.Patch(ctx, node, patch); err != nil {
			t.Error(err)
		}
	}
}

// dump logs the state of Lifeboat and of the programs' namespaces, and the end of
// the runtime's log on each node.
func (l *lab) dump(ctx context.Context, t *testing.T) {
	var text bytes.Buffer
	if rest, err := l.cluster.RESTConfig(); err != nil {
		fmt.Fprintln(&text, err)
	} else if logs, err := kubernetes.NewForConfig(rest); err != nil {
		fmt.Fprintln(&text, err)
	} else {
		observe.Dump(ctx, &text, l.api, logs, metav1.NamespaceAll)
	}
	for _, node := range []string{"n2", "n3"} {
		out, err := l.cluster.NodeExec(ctx, node, "sh", "-c", "cd /run/lifeboat && tail -n 40 *.log")
		fmt.Fprintf(&text, "--- /run/lifeboat of %s\n%s", node, out)
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	t.Logf("state at the end:\n%s", text.String())
}
