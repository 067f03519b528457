package audit

import (
	"time"

	"golang.org/x/time/rate"
)

// What each organisation may write, callers without one among them, and what all may
// together who could not prove who they are: lines a second, and how many at once. It is
// more than any number of pulls makes, and keeps a program that asks without end from
// filling the disk that everybody's lines are on.
const (
	linesPerSecond, linesAtOnce                = 100, 2000
	linesOfStrangersPerSecond, strangersAtOnce = 1, 100
	leftOutSaid                                = time.Minute
	strangersShare, nobodysShare               = "(no login)", "-" // as what the log calls them
)

// share is what one of them wrote.
type share struct {
	*rate.Limiter

	leftOut int       // since it was said
	said    time.Time // when that was
}

// shareOf is the name of the share that e's line counts against.
func (e *Entry) shareOf() string {
	switch {
	case e.Stranger:
		return strangersShare
	case e.Organisation == "":
		return nobodysShare
	}
	return e.Organisation
}

// gives says whether something may leave with the answer that e is about.
func (e *Entry) gives() bool {
	return e.Verdict == Allowed || e.Verdict == Stale || e.Verdict == Bypassed
}

// await says whether e's line is written, after waiting for its share. Where something
// leaves it always is, and whoever asks without end has to wait for each answer: else he
// could take images without a line. What is left out of the others is counted.
func (l *Log) await(e *Entry) bool {
	l.mu.Lock()
	s := l.share(e)
	r := s.Reserve()
	delay := r.Delay()
	gives := e.gives()
	if delay > 0 && !gives || delay > patience {
		r.Cancel() // nobody waits for as long, so it is not charged
	}
	if delay > 0 && !gives {
		l.leaveOut(e.shareOf(), s)
	}
	l.mu.Unlock()
	if gives {
		time.Sleep(min(delay, patience))
	}
	return delay == 0 || gives
}

// share is what e's line counts against. Caller holds mu.
func (l *Log) share(e *Entry) *share {
	name := e.shareOf()
	s := l.shares[name]
	if s == nil {
		s = &share{Limiter: rate.NewLimiter(linesPerSecond, linesAtOnce)}
		if e.Stranger {
			s.Limiter = rate.NewLimiter(linesOfStrangersPerSecond, strangersAtOnce)
		}
		l.shares[name] = s
	}
	return s
}

// leaveOut counts a line that is not written. Caller holds mu.
func (l *Log) leaveOut(name string, s *share) {
	l.lost.Inc()
	s.leftOut++
	if now := time.Now(); now.Sub(s.said) >= leftOutSaid {
		l.log.Warn("the audit leaves out lines, since one caller makes too many: pulls go on, and what is left out is counted",
			"organisation", name, "lines", s.leftOut)
		s.leftOut, s.said = 0, now
	}
}
