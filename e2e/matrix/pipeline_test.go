package matrix

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const pipelinePort = 7000

//go:embed programs/pipeline.sh
var pipelineSh string

// pipeline is a set of processes that a shell has connected by pipes. Clients put
// jobs into one of them.
type pipeline struct {
	nonce string

	mu       sync.Mutex
	sessions int
	taken    []taken
}

// taken is a job that lay in the pipe when the client was told so.
type taken struct {
	job string
	at  time.Time
}

func (p *pipeline) setup() setup {
	// The shell gets its program as text. A program that it keeps open in a
	// ConfigMap's volume has another name in every pod.
	return setup{port: pipelinePort, command: []string{"bash", "-c", pipelineSh}}
}

func (p *pipeline) numbers() []number {
	// What lies in the pipes is done without a request. Of jobs one in 20 ends with a
	// sleep of 100 ms, of numbers one in 100 with one of 50 ms.
	return []number{{"jobs done", 200}, {"numbers through the pipes", 2000}}
}

func (p *pipeline) fill(ctx context.Context, s *subject) error {
	client, err := p.connect(ctx, s)
	if err != nil {
		return err
	}
	p.nonce = client.nonce
	return client.Close()
}

func (p *pipeline) open(ctx context.Context, s *subject) (session, error) { return p.connect(ctx, s) }

func (p *pipeline) connect(ctx context.Context, s *subject) (*pipelineSession, error) {
	conn, err := dialLines(ctx, s, pipelinePort)
	if err != nil {
		return nil, err
	}
	if err := conn.conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, err
	}
	greeting, err := conn.line()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("read the pipeline's greeting: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	return &pipelineSession{lines: conn, of: p, id: p.sessions, nonce: strings.TrimPrefix(greeting, "hello ")}, nil
}

type pipelineSession struct {
	*lines
	of    *pipeline
	id    int
	nonce string
	jobs  int
}

func (p *pipelineSession) step() ([]int64, error) {
	p.jobs++
	job := fmt.Sprintf("%d-%d", p.id, p.jobs)
	if err := p.send(job + "\n"); err != nil {
		return nil, err
	}
	answer, err := p.line()
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 2)
	if _, err := fmt.Sscanf(answer, "taken %d %d", &numbers[0], &numbers[1]); err != nil {
		return nil, fmt.Errorf("the pipeline answers %q", answer)
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.taken = append(p.of.taken, taken{job, time.Now()})
	return numbers, nil
}

func (p *pipelineSession) ping() error {
	_, err := p.step()
	return err
}

func (p *pipeline) mark() string { return "job " }

func (p *pipeline) check(t *testing.T, s *subject) {
	client, err := p.connect(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if client.nonce != p.nonce {
		t.Errorf("another shell answers: its nonce is %s, was %s", client.nonce, p.nonce)
	}
	if err := client.ping(); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("job %d-%d", client.id, client.jobs)
	var journal []string
	err = observe.Until(s.deadline(t), "the journal has the last job", func(ctx context.Context) (bool, string, error) {
		text, err := s.exec(ctx, "cat", "/data/journal")
		journal = strings.Split(strings.TrimSpace(text), "\n")
		return journal[len(journal)-1] == last, "the last line is " + journal[len(journal)-1], err
	})
	if err != nil {
		t.Error(err)
	}
	p.checkJournal(t, s, journal)
	if faults, err := s.exec(s.deadline(t), "cat", "/data/faults"); err != nil || faults != "" {
		t.Errorf("numbers were lost, doubled or changed in the pipes: %q %v", faults, err)
	}
	p.checkLog(t, s)
	err = observe.Until(s.deadline(t), "the processes of the old connections have ended", func(ctx context.Context) (bool, string, error) {
		// The one that listens, and ours.
		count, err := s.exec(ctx, "sh", "-c", "cat /proc/[0-9]*/comm | grep -c '^socat$'")
		return strings.TrimSpace(count) == "2", strings.TrimSpace(count) + " processes of socat", err
	})
	if err != nil {
		t.Error(err)
	}
}

// checkJournal checks that every job that lay in the pipe before the checkpoint was
// done, and that each session's jobs were done once and in order.
func (p *pipeline) checkJournal(t *testing.T, s *subject, journal []string) {
	done := map[string]bool{}
	jobs := map[int]int{}
	for _, line := range journal {
		var session, number int
		if _, err := fmt.Sscanf(line, "job %d-%d", &session, &number); err != nil {
			t.Errorf("the journal has the line %q", line)
			continue
		}
		if number != jobs[session]+1 {
			t.Errorf("in the journal, job %d of client %d comes after %d", number, session, jobs[session])
		}
		jobs[session] = number
		done[fmt.Sprintf("%d-%d", session, number)] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	missing := 0
	for _, job := range p.taken {
		if !done[job.job] && (job.at.Before(s.takenAt()) || job.at.After(s.startedAt())) {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d jobs are not in the journal though they lay in the pipe at the checkpoint, or came after it", missing, len(p.taken))
	}
}

// checkLog checks that what the pipeline has written since its restore is in the
// container's log, without a gap.
func (p *pipeline) checkLog(t *testing.T, s *subject) {
	text, err := s.logs(s.deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	jobs := map[int]int{}
	for line := range strings.Lines(text) {
		var session, number int
		if _, err := fmt.Sscanf(line, "job %d-%d", &session, &number); err != nil {
			continue
		}
		if before := jobs[session]; before != 0 && number != before+1 {
			t.Errorf("in the log, job %d of client %d comes after %d", number, session, before)
		}
		jobs[session] = number
	}
}
