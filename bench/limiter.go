package main

import (
	"net"
	"sync/atomic"
	"time"
)

// limiter makes each connection of a listener as slow as a far registry's.
type limiter struct{ perSecond atomic.Int64 }

func (l *limiter) set(bytesPerSecond int) { l.perSecond.Store(int64(bytesPerSecond)) }

// listen limits what in accepts.
func (l *limiter) listen(in net.Listener) net.Listener { return limited{in, l} }

type limited struct {
	net.Listener

	l *limiter
}

// Accept gives a slow connection.
func (s limited) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c, l: s.l}, nil
}

// slowConn sends in steps, each when its time has come.
type slowConn struct {
	net.Conn

	l    *limiter
	next time.Time // when the next byte may leave
}

// step is how much goes at once: 1 ms at 60 MB/s.
const step = 64 << 10

// Write sends p at the pace of the limiter. A connection that was quiet has
// saved nothing up.
func (c *slowConn) Write(p []byte) (total int, err error) {
	for len(p) > 0 {
		part := p
		if rate := c.l.perSecond.Load(); rate > 0 {
			part = p[:min(len(p), step)]
			c.wait(len(part), rate)
		}
		n, err := c.Conn.Write(part)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

func (c *slowConn) wait(n int, rate int64) {
	now := time.Now()
	if c.next.Before(now.Add(-20 * time.Millisecond)) { // late by more than a timer's slack
		c.next = now
	}
	time.Sleep(c.next.Sub(now))
	c.next = c.next.Add(time.Duration(int64(n) * int64(time.Second) / rate))
}
