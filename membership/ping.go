package membership

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// message asks another member to ping a third one, or brings its good news.
type message struct {
	// From is the asking member's name.
	From string `json:"from"`
	// Target is the member to ping.
	Target string `json:"target"`
	// Round is the asker's number for the question.
	Round int `json:"round"`
	// Reached is set in the answer. A member that is not reached is not answered for.
	Reached bool `json:"reached,omitempty"`
}

// pingAll pings each checkpointer every PingInterval until ctx ends.
func (m *Membership) pingAll(ctx context.Context) {
	ticker := time.NewTicker(PingInterval)
	defer ticker.Stop()
	for tick := 0; ; tick++ {
		targets := m.pingTargets()
		// With many checkpointers only every n-th is pinged in one tick.
		every := 1 + len(targets)/int(pingsPerSecond*PingInterval.Seconds())
		for i, target := range targets {
			if i%every == tick%every {
				go m.ping(target)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Membership) pingTargets() []Member {
	var targets []Member
	for _, member := range m.Members() {
		if member.Kind == Checkpointer && (member.State == Alive || member.State == Suspect) {
			targets = append(targets, member)
		}
	}
	return targets
}

// ping pings one member and, when it does not answer, asks others to try.
func (m *Membership) ping(target Member) {
	sent := time.Now()
	if m.reaches(target) {
		m.answered(target.Name, sent)
		return
	}
	if time.Since(sent) > pingTimeout+PingInterval/2 {
		// This process was stopped meanwhile: its own ears are not to be trusted.
		return
	}
	// The others' good news must find this miss counted, to take it back.
	m.missed(target.Name, m.patience())
	m.askOthers(target)
}

// patience is how many misses in a row make a suspect. It grows with
// memberlist's estimate of how slow this process itself is.
func (m *Membership) patience() int {
	return missesToSuspect + min(m.list.GetHealthScore(), missesToSuspect)
}

// reaches pings a member once, over UDP.
func (m *Membership) reaches(target Member) bool {
	address, err := net.ResolveUDPAddr("udp", target.Address)
	if err != nil {
		return false
	}
	_, err = m.list.Ping(target.Name, address)
	return err == nil
}

// askOthers asks a few members that are believed alive to ping target.
func (m *Membership) askOthers(target Member) {
	m.mu.Lock()
	r := m.members[target.Name]
	if r == nil {
		m.mu.Unlock()
		return
	}
	r.round++
	r.askedAt = time.Now()
	question := message{From: m.config.Name, Target: target.Name, Round: r.round}
	var others []Member
	for _, other := range m.members {
		if other.State == Alive && other.Name != target.Name {
			others = append(others, other.Member)
		}
	}
	m.mu.Unlock()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, other := range others[:min(helpers, len(others))] {
		m.send(other, question)
	}
}

// receive handles another member's message. It must not block, and must not
// keep data.
func (m *Membership) receive(data []byte) {
	var msg message
	if err := json.Unmarshal(data, &msg); err != nil {
		m.log.Warn("a member's message cannot be read", "error", err)
		return
	}
	m.mu.Lock()
	subject, known := m.members[msg.Target]
	if !known || m.list == nil {
		m.mu.Unlock()
		return
	}
	target, answers, askedAt := subject.Member, msg.Round == subject.round, subject.askedAt
	asker, askerKnown := m.members[msg.From]
	var answerTo Member
	if askerKnown {
		answerTo = asker.Member
	}
	m.mu.Unlock()

	switch {
	case msg.Reached && answers:
		// It answered the helper after the helper was asked.
		m.answered(target.Name, askedAt)
	case !msg.Reached && askerKnown:
		go func() {
			if m.reaches(target) {
				msg.Reached = true
				m.send(answerTo, msg)
			}
		}()
	}
}

func (m *Membership) send(to Member, msg message) {
	data, err := json.Marshal(msg)
	if err != nil {
		panic(err) // strings, a number and a bool
	}
	if err := m.list.SendToAddress(memberlist.Address{Addr: to.Address, Name: to.Name}, data); err != nil {
		m.log.Debug("a message to a member was not sent", "member", to.Name, "error", err)
	}
}
