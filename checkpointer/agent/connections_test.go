package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// PodSandboxStatus tells addresses of a pod that is on one machine with the others.
func (p playedCRI) PodSandboxStatus(context.Context, *cri.PodSandboxStatusRequest, ...grpc.CallOption) (*cri.PodSandboxStatusResponse, error) {
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{Network: &cri.PodSandboxNetworkStatus{
		Ip: "127.0.0.1", AdditionalIps: []*cri.PodIP{{Ip: "::1"}},
	}}}, nil
}

// TestHeldConnections: who connects while the pod is stopped is answered by the process
// that ran elsewhere, and knows what it knew; and who waits for a pod that does not come
// is told.
func TestHeldConnections(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source, goal := nodetest.NewPod(t, "cart-x", "old"), nodetest.NewPod(t, "cart-y", "successor")
	m := with(planned(v1alpha1.StrategyLive), released)
	m.Namespace, m.Annotations[v1alpha1.AnnotationHoldPorts] = source.Namespace, "8080,9090"
	f := newFleet(t, movingPod(source, "here", nil), movingPod(goal, "there", nil), m)
	plainTCP(t, source)
	old := source.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"shop", "nothing", ""}})
	old.Start(t)
	f.runs(old)
	old.Output.WaitFor(t, "ready")
	if got := request(t, source, 8080, "POST /import", "seven pears")(); got != "11 taken" {
		t.Fatalf("the old pod answers %q", got)
	}
	f.step(m, reached(accepted))

	next := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"shop", "nothing", ""}})
	c := client.Container{ID: next.ID, Name: "main", Namespace: goal.Namespace, PodName: goal.Name, PodUID: goal.UID, SandboxID: goal.SandboxID}
	answer := make(chan client.CreateResponse, 1)
	create := func() {
		answer <- f.there.create(t.Context(), client.CreateRequest{Container: c, Bundle: next.Bundle, Epoch: 1}, nil)
	}
	go create()
	f.until(m, "it says where connections wait", func(m *v1alpha1.Migration) bool { return parked(m) && m.Status.Restore.Holding != nil })
	holding := m.Status.Restore.Holding
	if len(holding.PodIPs) != 2 || len(holding.Ports) != 2 || holding.At(8080) == 0 || holding.At(9090) == holding.At(8080) {
		t.Fatalf("connections wait at %+v", holding)
	}
	waits := request(t, goal, holding.At(8080), "POST /go-on", "")
	f.until(m, "the pod is prepared", func(m *v1alpha1.Migration) bool { return m.Status.Source != nil && m.Status.Source.PreparedAt != nil })
	f.step(m, reached(stopping))
	f.until(m, "the pod is stopped", func(m *v1alpha1.Migration) bool { return m.SourceStopped() })
	late := request(t, goal, holding.At(8080), "POST /go-on", "")
	got := <-answer
	if !got.Restore {
		t.Fatalf("the successor is created so: %+v", got)
	}
	next.SetCRIUConfig(t, got.ConfigPath)
	f.check(next.Runtime("runc", "restore", "--detach", "--bundle", next.Bundle, "--pid-file", next.PidFile(), "--image-path", got.ImagesPath,
		"--work-path", got.WorkPath, "--lazy-pages", "--manage-cgroups-mode", "ignore", next.ID))
	f.there.reported(t.Context(), client.ReportRequest{Container: c, Restored: true})
	for who, read := range map[string]func() string{"who waited": waits, "who came later": late, "who comes now": request(t, goal, holding.At(8080), "POST /go-on", "")} {
		if got := read(); got != "seven pears" {
			t.Errorf("%s is answered %q", who, got)
		}
	}
	f.check(f.api.Delete(t.Context(), movingPod(goal, "there", nil)))
	nodetest.Eventually(t, 5*time.Second, "nothing is held for a pod that is gone", func() bool { return f.there.connections.of(goal.UID) == nil })
}

// TestHeldForNothing: where the successor does not come back with its state, nobody waits
// for it, and it is not said that anybody could.
func TestHeldForNothing(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	goal := nodetest.NewPod(t, "cart-y", "successor")
	m := with(planned(v1alpha1.StrategyLive, accepted), released)
	m.Namespace, m.Spec.SourceNode, m.Annotations[v1alpha1.AnnotationHoldPorts] = goal.Namespace, "elsewhere", "8080"
	f := newFleet(t, movingPod(goal, "there", nil), m)
	next := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"shop", "nothing", ""}})
	c := client.Container{ID: next.ID, Name: "main", Namespace: goal.Namespace, PodName: goal.Name, PodUID: goal.UID, SandboxID: goal.SandboxID}
	answer := make(chan client.CreateResponse, 1)
	go func() {
		answer <- f.there.create(t.Context(), client.CreateRequest{Container: c, Bundle: next.Bundle, Epoch: 1}, nil)
	}()
	f.until(m, "it says where connections wait", func(m *v1alpha1.Migration) bool { return parked(m) && m.Status.Restore.Holding != nil })
	waits := request(t, goal, m.Status.Restore.Holding.At(8080), "POST /go-on", "")
	f.step(m, reached(stopping))
	f.step(m, stopped) // with a generation that nobody has
	if got := <-answer; got.Restore || got.Reason == "" {
		t.Fatalf("the successor is created so: %+v", got)
	}
	if got := waits(); !strings.Contains(got, "reset") {
		t.Errorf("who waited is answered %q", got)
	}
	f.until(m, "nobody can wait", func(m *v1alpha1.Migration) bool { return m.Status.Restore.Holding == nil })
}

// plainTCP does for a pod's network what the runtime does.
func plainTCP(t *testing.T, pod *nodetest.Pod) {
	t.Helper()
	err := pod.In(unix.CLONE_NEWNET, func() error { return os.WriteFile("/proc/sys/net/mptcp/enabled", []byte("0"), 0o600) })
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// request sends a request to a port in a pod's network, and returns what waits for the
// answer.
func request(t *testing.T, pod *nodetest.Pod, port int32, what, body string) func() string {
	t.Helper()
	var conn net.Conn
	nodetest.Eventually(t, 5*time.Second, fmt.Sprintf("somebody listens on port %d", port), func() bool {
		return pod.In(unix.CLONE_NEWNET, func() (err error) {
			conn, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
			return err
		}) == nil
	})
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", what, len(body), body); err != nil {
		t.Fatal(err)
	}
	return func() string {
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err.Error()
		}
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(answer)
	}
}
