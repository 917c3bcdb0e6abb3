package pages_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages/keeper"
)

func init() {
	pages.Roles["keeper"] = keeperMain
	pages.Roles["daemon"] = daemonMain
}

// daemonPlan is what a daemon in a process of its own does.
type daemonPlan struct {
	Guest  pages.GuestPlan
	Socket string // of the keeper
	// Resume is whether it goes on for one that has died.
	Resume bool
	Delay  time.Duration // of each read
	// DieAfter is after how many changes that it has read it ends, before it
	// applies them; 0: it does not.
	DieAfter int
	// Group is the file with the guest's process group, which the keeper kills.
	Group string
}

func plan(into any) {
	if err := json.Unmarshal([]byte(os.Getenv("HANDOVER_PLAN")), into); err != nil {
		end(err)
	}
}

func end(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func keeperMain() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	s := keeper.NewServer(func(d keeper.Description) error {
		raw, err := os.ReadFile(d.CgroupsPath)
		if err != nil {
			return err
		}
		group, err := strconv.Atoi(string(raw))
		if err != nil {
			return err
		}
		fmt.Println("kills", d.ID)
		return unix.Kill(-group, unix.SIGKILL)
	}, log)
	end(s.Run(context.Background(), os.Getenv("HANDOVER_PLAN")))
}

func daemonMain() {
	var p daemonPlan
	plan(&p)
	source := pages.NewFakeSource(p.Guest)
	source.Delay = p.Delay
	ctx := context.Background()
	var options pages.Options
	if p.DieAfter > 0 {
		var mu sync.Mutex
		seen := 0
		options = options.WithAfterRead(func(changes int) {
			mu.Lock()
			defer mu.Unlock()
			if seen += changes; seen >= p.DieAfter && changes > 0 {
				unix.Kill(os.Getpid(), unix.SIGKILL)
			}
		})
	}
	var d *pages.Daemon
	if p.Resume {
		client, kept, err := keeper.Take(p.Socket, "guest")
		if err != nil {
			end(err)
		}
		options.Keeper = client
		if d, err = pages.Resume(ctx, kept, source, options); err != nil {
			end(err)
		}
	} else {
		var err error
		options.Keeper = keeper.NewClient(p.Socket, keeper.Description{ID: "guest", CgroupsPath: p.Group})
		if d, err = pages.Start(ctx, p.Guest.Folder, source, options); err != nil {
			end(err)
		}
	}
	for d.Stats().Restored.IsZero() && d.Stats().Done.IsZero() {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("serves")
	err := d.Wait()
	fmt.Printf("%+v\n", d.Stats())
	end(err)
}

// output may be read while it is written.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// process is a role that runs.
type process struct {
	*exec.Cmd
	out  *output
	done chan error
}

func start(t *testing.T, role string, plan any) *process {
	t.Helper()
	raw, isText := plan.(string)
	if !isText {
		encoded, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		raw = string(encoded)
	}
	p := &process{Cmd: exec.Command("/proc/self/exe"), out: &output{}, done: make(chan error, 1)}
	p.Env = append(os.Environ(), pages.RoleVariable+"="+role, "HANDOVER_PLAN="+raw)
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.Stdout, p.Stderr = p.out, p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() })
	go func() { p.done <- p.Wait() }()
	return p
}

// wait waits for a process's end, but not for ever.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(30 * time.Second):
		p.Process.Kill()
		t.Fatalf("it hangs:\n%s", p.out)
		return nil
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// scene is a guest with a keeper and daemons in processes of their own.
type scene struct {
	daemonPlan
	keeper, daemon *process
	guest          *exec.Cmd
	guestOut       *strings.Builder
}

func newScene(t *testing.T, first daemonPlan) *scene {
	folder := t.TempDir()
	first.Guest.Folder, first.Guest.Seed = folder, rand.Uint64()
	first.Socket, first.Group = filepath.Join(folder, "keeper.sock"), filepath.Join(folder, "group")
	s := &scene{daemonPlan: first}
	s.keeper = start(t, "keeper", s.Socket)
	eventually(t, "the keeper listens", func() bool { _, err := keeper.List(s.Socket); return err == nil })
	s.daemon = start(t, "daemon", first)
	eventually(t, "the daemon listens", func() bool {
		_, err := os.Stat(filepath.Join(folder, "lazy-pages.socket"))
		return err == nil
	})
	s.guest, s.guestOut = pages.StartGuest(t, first.Guest)
	if err := s.guest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(-s.guest.Process.Pid, unix.SIGKILL) })
	if err := os.WriteFile(s.Group, []byte(strconv.Itoa(s.guest.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.serves(t)
	return s
}

// serves waits until the daemon knows everything that another one would have to.
func (s *scene) serves(t *testing.T) {
	eventually(t, "the daemon serves", func() bool { return strings.Contains(s.daemon.out.String(), "serves") })
}

func (s *scene) killed() bool { return strings.Contains(s.keeper.out.String(), "kills guest") }

func TestGuestOutlivesItsDaemons(t *testing.T) {
	const rounds = 8
	whole := 0
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := newScene(t, daemonPlan{Guest: pages.GuestPlan{Processes: 2, Threads: 2, Pages: 8000, Ops: 2000, Changes: round%2 == 1}, Delay: 2 * time.Millisecond})
			for range 3 {
				<-time.After(20*time.Millisecond + time.Duration(rand.IntN(60))*time.Millisecond)
				s.daemon.Process.Kill()
				if err := s.daemon.wait(t); err == nil {
					break // it had done everything
				}
				eventually(t, "the keeper notices", func() bool {
					list, err := keeper.List(s.Socket)
					return err == nil && len(list) > 0 || s.killed()
				})
				if s.killed() {
					break
				}
				next := s.daemonPlan
				next.Resume = true
				s.daemon = start(t, "daemon", next)
				s.serves(t)
			}
			guestErr := s.guest.Wait()
			if s.killed() {
				t.Logf("killed, since an event may have been lost: %v", guestErr)
				if s.guestOut.Len() > 0 {
					t.Errorf("guest: %s", s.guestOut)
				}
				return
			}
			if guestErr != nil {
				t.Errorf("guest: %v\n%s", guestErr, s.guestOut)
			}
			if err := s.daemon.wait(t); err != nil {
				t.Errorf("daemon: %v\n%s", err, s.daemon.out)
			}
			t.Log(s.daemon.out)
			if list, err := keeper.List(s.Socket); err != nil || len(list) > 0 {
				t.Errorf("the keeper still has %v, %v", list, err)
			}
			whole++
		})
	}
	if whole < rounds/2 {
		t.Errorf("only %d of %d guests lived on", whole, rounds)
	}
}

func TestLostEventKillsGuest(t *testing.T) {
	s := newScene(t, daemonPlan{
		Guest: pages.GuestPlan{Processes: 1, Threads: 2, Pages: 8000, Ops: 100000, Changes: true}, Delay: time.Millisecond, DieAfter: 5,
	})
	if err := s.daemon.wait(t); err == nil {
		t.Fatal("the daemon lives")
	}
	eventually(t, "the keeper kills", s.killed)
	if err := s.guest.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("guest: %v\n%s", err, s.guestOut)
	}
	eventually(t, "the keeper lets go", func() bool {
		_, _, err := keeper.Take(s.Socket, "guest")
		return err != nil && strings.Contains(err.Error(), "nothing is kept")
	})
}

func TestLeaving(t *testing.T) {
	folder := t.TempDir()
	socket := filepath.Join(folder, "keeper.sock")
	k := start(t, "keeper", socket)
	eventually(t, "the keeper listens", func() bool { _, err := keeper.List(socket); return err == nil })
	guest := pages.GuestPlan{Folder: folder, Processes: 1, Threads: 2, Pages: 8000, Ops: 1000, Seed: rand.Uint64()}
	source := pages.NewFakeSource(guest)
	source.Delay = 150 * time.Millisecond // the next keeper comes before the end
	d, err := pages.Start(context.Background(), folder, source, pages.Options{Keeper: keeper.NewClient(socket, keeper.Description{ID: "guest", CgroupsPath: "/none"})})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	cmd, out := pages.StartGuest(t, guest)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest is restored", func() bool { return !d.Stats().Restored.IsZero() })

	// The keeper ends: the daemon goes on, and brings everything to the next one.
	k.Process.Kill()
	k.wait(t)
	if err := d.Leave(); err == nil {
		t.Error("the daemon leaves without a keeper")
	}
	start(t, "keeper", socket)
	eventually(t, "the keeper has everything, or all is done", func() bool { return d.Leave() == nil })
	if err := d.Wait(); err != nil && !errors.Is(err, pages.ErrStopped) {
		t.Error(err)
	} else if err != nil {
		client, kept, err := keeper.Take(socket, "guest")
		if err != nil {
			t.Fatal(err)
		}
		next, err := pages.Resume(context.Background(), kept, source, pages.Options{Keeper: client})
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Wait(); err != nil {
			t.Error(err)
		}
		t.Logf("%+v", next.Stats())
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("guest: %v\n%s", err, out)
	}
}
