package main

// happening is a kind of event.
type happening uint8

// event is something that will happen. Its fields mean what its kind says.
type event struct {
	at    int64 // true time
	order uint32
	kind  happening
	a, b  int16
	gen   uint32
	ref   int32
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.order < o.order }

// queue holds the events that are to come: a heap with four children a parent,
// which moves less than one with two. Events of one moment happen in the order in
// which they were put in.
type queue struct {
	heap  []event
	order uint32
}

func (q *queue) reset() { q.heap, q.order = q.heap[:0], 0 }

func (q *queue) put(e event) {
	e.order = q.order
	q.order++
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(&q.heap[parent]) {
			break
		}
		q.heap[i] = q.heap[parent]
		i = parent
	}
	q.heap[i] = e
}

func (q *queue) take() event {
	first := q.heap[0]
	end := len(q.heap) - 1
	last := q.heap[end]
	q.heap = q.heap[:end]
	if end == 0 {
		return first
	}
	i := 0
	for {
		least := 4*i + 1
		if least >= end {
			break
		}
		for child := least + 1; child < min(4*i+5, end); child++ {
			if q.heap[child].before(&q.heap[least]) {
				least = child
			}
		}
		if !q.heap[least].before(&last) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	q.heap[i] = last
	return first
}
