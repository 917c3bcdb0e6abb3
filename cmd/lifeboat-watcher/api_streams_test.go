package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/httpapi"
)

// sse is an event of a stream.
type sse struct{ id, name, data string }

// listen opens a stream, and returns its events.
func (a *restAPI) listen(replica int, token, path, last string) <-chan sse {
	t := a.t
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.replicas[replica].url+"/api/v1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := a.replicas[replica].client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("GET %s: %s, %s", path, response.Status, got)
	}
	events := make(chan sse, 100)
	go func() {
		defer close(events)
		var event sse
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "id":
				event.id = value
			case "event":
				event.name = value
			case "data":
				event.data = value
			case "":
				if event.name != "" {
					events <- event
				}
				event = sse{}
			}
		}
	}()
	return events
}

// next is the next event, which has to be of that name.
func (a *restAPI) next(events <-chan sse, name string) (e sse, change httpapi.MigrationEvent) {
	a.t.Helper()
	for {
		var ok bool
		select {
		case e, ok = <-events:
		case <-time.After(30 * time.Second):
			a.t.Fatalf("no event %s came", name)
		}
		switch {
		case !ok:
			a.t.Fatalf("the stream ended before the event %s", name)
		case e.name == "synced" && name != "synced":
			continue // it comes from time to time
		case e.name != name:
			a.t.Fatalf("got event %s with %s, want %s", e.name, e.data, name)
		}
		if err := json.Unmarshal([]byte(e.data), &change); err != nil {
			a.t.Fatal(err)
		}
		return e, change
	}
}

func (a *restAPI) streams(u users) {
	t := a.t
	const one = shopMigrations + "/cart-0-1"
	object := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0-1"}}
	reach := func(phase v1alpha1.Phase) {
		a.changed(object, func() {
			object.Status.Phase = phase
			object.Status.Phases = append(object.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NowMicro()})
		})
	}
	events := a.listen(0, u.viewer, one+"/events", "")
	a.next(events, "reset")
	if _, change := a.next(events, "migration"); change.Type != "ADDED" || change.Migration.Name != "cart-0-1" {
		t.Errorf("the stream begins with %+v", change)
	}
	a.next(events, "synced")
	reach(v1alpha1.PhaseAccepted)
	accepted, change := a.next(events, "migration")
	if change.Type != "MODIFIED" || change.Migration.Status.Phase != "Accepted" || accepted.id != change.Migration.ResourceVersion {
		t.Errorf("a change came as %s %+v", accepted.id, change)
	}
	// What happens while the caller is away comes when it goes on, at another replica.
	reach(v1alpha1.PhasePrepared)
	reach(v1alpha1.PhaseStopping)
	resumed := a.listen(1, u.viewer, one+"/events", accepted.id)
	for _, want := range []string{"Prepared", "Stopping"} {
		if _, change := a.next(resumed, "migration"); change.Migration.Status.Phase != want {
			t.Errorf("the stream goes on with %+v, want phase %s", change, want)
		}
	}
	// What the cluster cannot know begins anew.
	unknown := a.listen(0, u.admin, "/events", "99999999999")
	a.next(unknown, "reset")
	all := a.listen(1, u.viewer, "/events?namespace=shop", "")
	a.next(all, "reset")
	names := []string{}
	for range 3 {
		_, change := a.next(all, "migration")
		names = append(names, change.Migration.Name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"cart-0-1", "cart-1-1", "lost-1"}) {
		t.Errorf("all Migrations are %v", names)
	}
	a.next(all, "synced")
	a.changed(object, func() { object.Status.Result = v1alpha1.ResultRestored })
	a.next(all, "migration")
	last, change := a.next(resumed, "migration")
	if change.Migration.Status.Result != "Restored" {
		t.Errorf("closed as %+v", change)
	}
	a.next(resumed, "end")
	if _, open := <-resumed; open {
		t.Error("a stream goes on after the Migration was closed")
	}
	a.do(call{token: u.viewer, path: one + "/events", status: 204, header: map[string]string{"Last-Event-ID": last.id}}, nil)
	a.do(call{token: u.viewer, path: one + "/events", status: 422, reason: "Invalid", header: map[string]string{"Last-Event-ID": "x"}}, nil)
	a.do(call{token: u.viewer, path: shopMigrations + "/none/events", status: 404, reason: "NotFound"}, nil)
	a.called["watch-migrations"] = true // a stream that does not end; its events were looked at above
}

// ends: a replica that is told to stop ends its streams, and then itself.
func (a *restAPI) ends(u users) {
	events := a.listen(0, u.admin, "/events", "")
	a.next(events, "reset")
	a.replicas[0].stop()
	select {
	case err := <-a.replicas[0].ended:
		if err != nil {
			a.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		a.t.Fatal("the API does not end")
	}
	for range events { // until it is closed
	}
}
