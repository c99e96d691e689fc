"""How often to look when the model can't keep up: after every hop, or every second or fourth one.

In: how busy the model was, and what came to it too late. Out: a factor for the hops. Pure: time is its caller's.
It slows down quickly and comes back slowly, and more slowly each time that proves too early, so it does not flap.
"""

PERIOD_S = 5.0  # the model is judged by so long at a time; two bad periods in a row are no hiccup of the machine
LATE = 0.1  # of the windows: fewer are lost to other programs, and less than a longer hop would lose
BUSY = 0.5  # share of the time under which lateness isn't the model's: some drivers deliver in large lumps
ROOM = 0.7  # a shorter hop, which doubles what it does for them, is tried if it is then busy for no more of the time
REST_S = 30.0  # of calm before that: the noise of one evening is one overload, not twenty
MOST_REST_S = 600.0  # what it grows to, doubling each time that the shorter hop turns out too short


class Pace:
    """A factor of 1, 2, 4 … `most`.

    `is_short` says that not even `most` is enough, and windows are skipped all the same.
    """

    def __init__(self, most: int) -> None:
        self.factor = 1
        self.is_short = False
        self._most = most
        self._rest_s = REST_S
        self._is_trying = False  # a shorter hop, and its rest is not over
        self._was_late = False  # in the period before
        self._began: float | None = None  # of this period
        self._calm_since = 0.0
        self._busy_s = self._own_s = 0.0
        self._n_windows = self._n_late = 0

    def note(self, now: float, busy_s: float, own_s: float, n_windows: int, n_late: int) -> bool:
        """Take note of what happened until `now`, in seconds of a monotonic clock.

        Args:
            now: never earlier than the last time.
            busy_s: seconds worked since the last time.
            own_s: of them for streams that slow down.
            n_windows: of theirs.
            n_late: those of them that came after one or more was skipped.

        Returns:
            Whether `factor` or `is_short` changed.
        """
        if self._began is None:
            self._began = self._calm_since = now
        self._busy_s += busy_s
        self._own_s += own_s
        self._n_windows += n_windows
        self._n_late += n_late
        passed_s = now - self._began
        if passed_s < PERIOD_S:
            return False
        before = self.factor, self.is_short
        self._judge(now, self._busy_s / passed_s, self._own_s / passed_s)
        self._began, self._busy_s, self._own_s, self._n_windows, self._n_late = now, 0.0, 0.0, 0, 0
        return before != (self.factor, self.is_short)

    def _judge(self, now: float, load: float, own: float) -> None:
        is_late = load >= BUSY and self._n_late > 0 and self._n_late >= LATE * self._n_windows
        if is_late or (self.factor > 1 and load + own > ROOM):
            self._calm_since = now
        if is_late and self._was_late:
            self._slow_down()
            is_late = False  # the new hop is judged by itself
        elif now - self._calm_since >= self._rest_s:
            self._calm_since = now
            self._speed_up()
        self._was_late = is_late

    def _slow_down(self) -> None:
        if self._is_trying:
            self._rest_s = min(2 * self._rest_s, MOST_REST_S)
            self._is_trying = False
        self.is_short = self.factor == self._most
        self.factor = min(2 * self.factor, self._most)

    def _speed_up(self) -> None:
        self.is_short = False
        self._is_trying = self.factor > 1
        if not self._is_trying:
            self._rest_s = REST_S
        self.factor = max(1, self.factor // 2)
