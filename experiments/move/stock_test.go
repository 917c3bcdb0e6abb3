package move

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

func TestMain(m *testing.M) {
	nodetest.Main(m, map[string]func([]string){"counter": counter, "wait": func([]string) { select {} }})
}

const counterAddress = "127.0.0.1:8080"

// counter counts requests, in memory alone.
func counter([]string) {
	count := 0
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		count++
		fmt.Fprint(w, count)
	})
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU cannot dump it
	listener, err := config.Listen(context.Background(), "tcp4", counterAddress)
	fmt.Println("ready", err)
	fmt.Println("error", http.Serve(listener, nil))
}

// ask counts once, and leaves a connection open: clients have some when a pod moves.
func ask(t *testing.T, pod *nodetest.Pod) string {
	t.Helper()
	var answer []byte
	err := pod.In(unix.CLONE_NEWNET, func() error {
		conn, err := net.DialTimeout("tcp4", counterAddress, 5*time.Second)
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer[len(answer)-1:])
}

// TestStockRuncRestoresInAnotherPod: runc's own checkpoint of a container, with
// connections, is restored beside the container that waits in another pod.
func TestStockRuncRestoresInAnotherPod(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	old := nodetest.NewPod(t, "old", "1")
	c := old.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"counter"}})
	c.Start(t)
	c.Output.WaitFor(t, "ready")
	for range 2 {
		ask(t, old)
	}
	var idle net.Conn
	if err := old.In(unix.CLONE_NEWNET, func() (err error) {
		idle, err = net.Dial("tcp4", counterAddress)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	fresh := nodetest.NewPod(t, "new", "2")
	waiting := fresh.NewContainer(t, "c2", "main", nodetest.Spec{Args: []string{"wait"}})
	waiting.Start(t)
	raw, err := os.ReadFile(filepath.Join(waiting.Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := rename(raw, filepath.Join(waiting.Bundle, "rootfs"), waiting.ID, "stock-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{stockImages, stockWork, stockBundle} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string][]byte{filepath.Join(stockBundle, "config.json"): config, stockOptions: []byte(restoreOptions)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, arguments := range [][]string{checkpointArguments(c.ID), restoreArguments("stock-1")} {
		if err := c.Runtime("runc", arguments...); err != nil {
			for _, log := range []string{"dump.log", "restore.log"} {
				text, _ := os.ReadFile(filepath.Join(stockWork, log))
				t.Logf("%s:\n%s", log, text)
			}
			t.Fatal(err)
		}
	}
	if got := ask(t, fresh); got != "3" {
		t.Errorf("the restored container counts %s, want 3", got)
	}
	if err := c.Runtime("runc", "delete", "--force", "stock-1"); err != nil {
		t.Error(err)
	}
}
