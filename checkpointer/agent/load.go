package agent

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

const (
	// lookEvery is how often the node's load and its end are looked at.
	lookEvery = 2 * time.Second
	// tellEvery bounds how often the load is written: every node writes its own.
	tellEvery = 10 * time.Second
	// muchPressure, in points of per cent, and muchMemory, as a share, are how much
	// something must have changed to be written.
	muchPressure = 10
	muchMemory   = 0.1
	// farewell bounds what is done after the checkpointer was told to end.
	farewell = 2 * time.Second
)

// publisher tells how busy the node is, and that it shuts down.
type publisher struct {
	// load measures, and shutdown is whether a shutdown of the machine is scheduled.
	load     func() v1alpha1.NodeLoad
	shutdown func() bool
	// write is Agent.patchStatus.
	write func(context.Context, func(*v1alpha1.FenceStatus)) error
	log   *slog.Logger
}

// publishLoad runs a publisher for the node until ctx ends.
func (a *Agent) publishLoad(ctx context.Context) error {
	p := publisher{
		load:     func() v1alpha1.NodeLoad { return readLoad(a.host.ProcRoot) },
		shutdown: func() bool { return shutdownScheduled(a.host) },
		write:    a.patchStatus,
		log:      a.log,
	}
	p.run(ctx)
	return nil
}

// run publishes until ctx ends. What an earlier boot said of its end is taken back
// with the first write.
func (p publisher) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var told *v1alpha1.NodeLoad
	var toldAt time.Time
	var toldShutdown bool
	for {
		now, load, shutdown := time.Now(), p.load(), p.shutdown()
		if told == nil || shutdown != toldShutdown || now.Sub(toldAt) >= tellEvery && changedMuch(*told, load) {
			load.At = metav1.NewTime(now)
			err := p.write(ctx, func(status *v1alpha1.FenceStatus) {
				status.Load = &load
				setShuttingDown(status, shutdown, now)
			})
			if err == nil {
				told, toldAt, toldShutdown = &load, now, shutdown
			} else if ctx.Err() == nil {
				p.log.Debug("load not published yet", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// changedMuch says whether a load is worth another write.
func changedMuch(told, now v1alpha1.NodeLoad) bool {
	far := func(x, y int32) bool { return x-y >= muchPressure || y-x >= muchPressure }
	memory := math.Abs(float64(now.MemoryAvailableBytes - told.MemoryAvailableBytes))
	return far(told.CPUPressure, now.CPUPressure) || far(told.MemoryPressure, now.MemoryPressure) ||
		far(told.IOPressure, now.IOPressure) || memory > 0 && memory >= muchMemory*float64(told.MemoryAvailableBytes)
}

// setShuttingDown keeps the moment at which the shutdown was first seen.
func setShuttingDown(status *v1alpha1.FenceStatus, shutdown bool, now time.Time) {
	switch {
	case !shutdown:
		status.ShuttingDown = nil
	case status.ShuttingDown == nil:
		status.ShuttingDown = &metav1.MicroTime{Time: now}
	}
}

// readLoad measures the node's load. What the kernel does not tell is 0: it may
// have been built or started without pressure stall information.
func readLoad(procRoot string) v1alpha1.NodeLoad {
	return v1alpha1.NodeLoad{
		CPUPressure:          readPressure(procRoot, "cpu"),
		MemoryPressure:       readPressure(procRoot, "memory"),
		IOPressure:           readPressure(procRoot, "io"),
		MemoryAvailableBytes: readAvailable(procRoot),
	}
}

// readPressure is the share of the last ten seconds in which some task waited, in
// per cent.
func readPressure(procRoot, resource string) int32 {
	var share float64
	scanLines(filepath.Join(procRoot, "pressure", resource), func(line string) bool {
		n, _ := fmt.Sscanf(line, "some avg10=%f", &share)
		return n == 1
	})
	if !(share >= 0 && share <= 100) { // also what is no number
		return 0
	}
	return int32(math.Round(share))
}

// readAvailable is the memory that the node can give without swapping, in bytes.
func readAvailable(procRoot string) int64 {
	var kib int64
	scanLines(filepath.Join(procRoot, "meminfo"), func(line string) bool {
		n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib)
		return n == 1
	})
	return max(0, kib) << 10
}

// scanLines reads the lines of a file until one is found.
func scanLines(path string, found func(line string) bool) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if found(strings.TrimSpace(scan.Text())) {
			return
		}
	}
}

// shutdownScheduled says whether systemd has a shutdown of the machine planned, as
// "shutdown +5" does. One that begins at once is told by the kubelet, and by
// whatever ends this checkpointer, see reportShutdown.
func shutdownScheduled(host criu.Host) bool {
	_, err := os.Stat(filepath.Join(host.Root, "run/systemd/shutdown/scheduled"))
	return err == nil
}

// reportShutdown is called when the checkpointer has been told to end. It tells that
// the node shuts down if that is why.
func (a *Agent) reportShutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	var pods corev1.PodList
	err := a.api.List(ctx, &pods, ctrlclient.InNamespace(a.cfg.Namespace),
		ctrlclient.MatchingLabels{"app.kubernetes.io/name": "lifeboat-checkpointer"},
		ctrlclient.MatchingFields{"spec.nodeName": a.cfg.NodeName})
	if err == nil && endedByNode(pods.Items) {
		err = a.patchStatus(ctx, func(status *v1alpha1.FenceStatus) { setShuttingDown(status, true, time.Now()) })
	}
	if err != nil {
		a.log.Warn("not known whether the node shuts down", "err", err)
	}
}

// endedByNode says whether the checkpointers of the node are ended by the node
// itself: somebody who ends one over the API, to update or to remove it, deletes
// its pod first. It takes neither systemd nor a word of the kubelet's to know. Where
// only a container is restarted, its next start takes back what was told.
func endedByNode(pods []corev1.Pod) bool {
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			return false
		}
	}
	return len(pods) > 0
}
