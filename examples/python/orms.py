"""What Django, SQLAlchemy and psycopg2 do through the views, by trying.

Each trial takes place once with rows of each store, and prints "ok" or
"not ok".  Those that do not work fail with the SQLSTATE that is given here, as
docs/limits.md says.

The tables: run (id, note, n, at), where the id decides, and step (id, runId, n),
which is in the store of its run.  The connection is that of PGHOST and the like.
"""

import itertools
import os
import sys
import threading

import django
import psycopg2
import psycopg2.extras
import sqlalchemy as sa
from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Count, F, Sum
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import insert

# Django's names have no schema, so the views come first in the path.
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"], "OPTIONS": {"options": "-c search_path=routed,public"},
    }},
    INSTALLED_APPS=["__main__"], USE_TZ=True)
django.setup()


class Run(models.Model):
    id = models.TextField(primary_key=True)
    note = models.TextField(null=True)
    n = models.IntegerField(default=0)
    at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table, managed = "run", False


class Step(models.Model):
    id = models.TextField(primary_key=True)
    run = models.ForeignKey(Run, models.CASCADE, db_column="runId")
    n = models.IntegerField(default=0)

    class Meta:
        db_table, managed = "step", False


Base = orm.declarative_base()


class SaRun(Base):
    __tablename__, __table_args__ = "run", {"schema": "routed"}
    id = sa.Column(sa.Text, primary_key=True)
    note = sa.Column(sa.Text)
    n = sa.Column(sa.Integer, server_default="0")
    at = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.now(), onupdate=sa.func.now())
    steps = orm.relationship("SaStep", back_populates="run", cascade="all, delete-orphan")


class SaStep(Base):
    __tablename__, __table_args__ = "step", {"schema": "routed"}
    id = sa.Column(sa.Text, primary_key=True)
    run_id = sa.Column("runId", sa.ForeignKey(SaRun.id))
    n = sa.Column(sa.Integer)
    run = orm.relationship(SaRun, back_populates="steps")


engine = sa.create_engine("postgresql+psycopg2://")
Session = orm.sessionmaker(engine, future=True)

split = sys.argv[1] == "on"
numbers = itertools.count(int(sys.argv[2]))


def new_id(store):
    digits = str(next(numbers))
    return "run_" + (digits.rjust(27, "0") if split and store == "NEW" else "c" + digits.rjust(24, "0"))


def other(store):
    return "NEW" if store == "LEGACY" else "LEGACY"


def both(store):
    """Two ids of either store."""
    return [new_id(s) for s in (store, other(store)) for _ in (1, 2)]


def elsewhere(work):
    """The result of some work in another thread, which has a connection of its own."""
    result = []

    def run():
        try:
            result.append(work())
        finally:
            connection.close()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


TRIALS = []


def trial(off="works", on="works"):
    def add(function):
        TRIALS.append((function, on if split else off))
        return function
    return add


# Django

@trial()
def django_save_get_delete(store):
    run = Run.objects.create(id=new_id(store), note="a")
    run.note = "b"
    run.save()
    assert Run.objects.get(pk=run.pk).note == "b"
    assert Run.objects.filter(pk=run.pk).update(n=F("n") + 1) == 1
    run.refresh_from_db()
    assert run.n == 1
    assert run.delete()[0] == 1
    assert not Run.objects.filter(pk=run.pk).exists()


@trial()
def django_update_or_create(store):
    id = new_id(store)
    for expected in (True, False):
        run, created = Run.objects.update_or_create(id=id, defaults={"note": str(expected)})
        assert created == expected
    assert Run.objects.get(pk=id).note == "False"
    assert Run.objects.get_or_create(id=id)[1] is False


@trial()
def django_bulk_create_ignore_conflicts(store):
    ids = both(store)
    Run.objects.bulk_create([Run(id=id, note="first") for id in ids[1:3]])
    Run.objects.bulk_create([Run(id=id, note="second") for id in ids], ignore_conflicts=True)
    assert sorted(Run.objects.filter(id__in=ids).values_list("id", "note")) == sorted(
        (id, "first" if id in ids[1:3] else "second") for id in ids)


@trial()
def django_bulk_update(store):
    runs = Run.objects.bulk_create([Run(id=id) for id in both(store)])
    for n, run in enumerate(runs):
        run.n = n
    Run.objects.bulk_update(runs, ["n"])
    assert [Run.objects.get(pk=run.pk).n for run in runs] == [0, 1, 2, 3]


@trial()
def django_select_for_update(store):
    ids = both(store)
    Run.objects.bulk_create([Run(id=id, note=ids[0]) for id in ids])
    with transaction.atomic():
        assert Run.objects.select_for_update().get(pk=ids[0]).pk == ids[0]
        assert len(Run.objects.select_for_update().filter(pk__in=[ids[0], ids[3]])) == 2

        def rest():
            with transaction.atomic():
                return sorted(r.pk for r in Run.objects.select_for_update(skip_locked=True).filter(note=ids[0]))
        assert elsewhere(rest) == sorted(ids[1:3])


@trial()
def django_queue(store):
    ids = both(store)
    Run.objects.bulk_create([Run(id=id, note=ids[0]) for id in ids])
    taken = []
    for _ in range(4):
        with transaction.atomic():
            job = Run.objects.select_for_update(skip_locked=True).filter(note=ids[0]).order_by("at", "id").first()
            taken.append(job.pk)
            job.note = None
            job.save()
    assert sorted(taken) == sorted(ids)


@trial(on="0A000")
def django_select_for_update_of_a_join(store):
    run = Run.objects.create(id=new_id(store))
    Step.objects.create(id="step " + run.pk, run=run)
    with transaction.atomic():
        assert Step.objects.select_for_update().select_related("run").get(run=run).run.pk == run.pk


@trial()
def django_relations(store):
    run = Run.objects.create(id=new_id(store))
    for n in (1, 2):
        run.step_set.create(id=f"{run.pk} {n}", n=n)
    found = Run.objects.annotate(steps=Count("step"), sum=Sum("step__n")).get(pk=run.pk)
    assert (found.steps, found.sum) == (2, 3)
    assert [s.n for s in Run.objects.prefetch_related("step_set").get(pk=run.pk).step_set.order_by("n")] == [1, 2]
    assert Step.objects.select_related("run").filter(run__n=0, run=run).count() == 2
    assert run.delete()[0] == 3


@trial()
def django_iterator(store):
    ids = both(store)
    Run.objects.bulk_create([Run(id=id, note=ids[0]) for id in ids])
    assert {r.pk for r in Run.objects.filter(note=ids[0]).iterator(chunk_size=2)} == set(ids)


# SQLAlchemy

@trial()
def sqlalchemy_session(store):
    id = new_id(store)
    with Session.begin() as session:
        session.add(SaRun(id=id, note="a", steps=[SaStep(id=f"{id} {n}", n=n) for n in (1, 2)]))
    with Session.begin() as session:
        run = session.get(SaRun, id)
        assert (run.n, len(run.steps)) == (0, 2)
        run.note = "b"
        del run.steps[0]
    with Session.begin() as session:
        run = session.merge(SaRun(id=id, note="c"))
        assert len(run.steps) == 1
    with Session.begin() as session:
        session.delete(session.get(SaRun, id))
    with Session() as session:
        assert session.get(SaRun, id) is None


@trial()
def sqlalchemy_on_conflict(store):
    ids = both(store)
    with engine.begin() as c:
        c.execute(sa.insert(SaRun), [{"id": id, "n": 1} for id in ids[1:3]])
        nothing = insert(SaRun).values([{"id": ids[0], "n": 5}, {"id": ids[1], "n": 5}]).on_conflict_do_nothing()
        assert c.execute(nothing.returning(SaRun.id)).scalars().all() == [ids[0]]
        new = insert(SaRun).values([{"id": id, "n": 10, "note": "new"} for id in ids])
        update = new.on_conflict_do_update(
            index_elements=[SaRun.id], set_={"n": SaRun.n + new.excluded.n, "note": "old"}, where=SaRun.n < 5)
        rows = c.execute(update.returning(SaRun.id, SaRun.n, SaRun.note)).all()
    assert sorted(map(tuple, rows)) == sorted([(ids[1], 11, "old"), (ids[2], 11, "old"), (ids[3], 10, "new")])


@trial()
def sqlalchemy_with_for_update(store):
    ids = both(store)
    with Session.begin() as session:
        session.add_all(SaRun(id=id, note=ids[0]) for id in ids)
    with Session.begin() as session, Session.begin() as second:
        mine = sa.select(SaRun.id).where(SaRun.id.in_([ids[0], ids[3]])).with_for_update()
        rest = sa.select(SaRun.id).where(SaRun.note == ids[0]).with_for_update(skip_locked=True)
        assert len(session.execute(mine).all()) == 2
        assert sorted(second.execute(rest).scalars()) == sorted(ids[1:3])
        session.get(SaRun, ids[0], with_for_update={"nowait": True})


@trial(on="0A000")
def sqlalchemy_with_for_update_of_a_join(store):
    id = new_id(store)
    with Session.begin() as session:
        session.add(SaRun(id=id, steps=[SaStep(id=f"{id} 1", n=1)]))
    with Session.begin() as session:
        session.execute(sa.select(SaStep).join(SaRun).where(SaRun.id == id).with_for_update(of=SaStep)).all()


@trial()
def sqlalchemy_update_and_delete(store):
    ids = both(store)
    with Session.begin() as session:
        session.add_all(SaRun(id=id, note=ids[0]) for id in ids)
    with engine.begin() as c:
        update = sa.update(SaRun).where(SaRun.note == ids[0]).values(n=SaRun.n + 1)
        assert sorted(c.execute(update.returning(SaRun.id, SaRun.n)).all()) == sorted((id, 1) for id in ids)
        assert c.execute(sa.delete(SaRun).where(SaRun.id.in_(ids))).rowcount == 4


# psycopg2

def connect():
    return psycopg2.connect("")


@trial()
def psycopg2_rows(store):
    ids = both(store)
    with connect() as c, c.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor, 'INSERT INTO routed.run (id, note) VALUES %s ON CONFLICT (id) DO UPDATE SET note = EXCLUDED.note', [(id, "a") for id in ids])
        cursor.executemany("UPDATE routed.run SET n = %s WHERE id = %s", list(enumerate(ids)))
        cursor.execute("SELECT n FROM routed.run WHERE id = ANY (%s) ORDER BY n", (ids,))
        assert [n for n, in cursor] == [0, 1, 2, 3]
        cursor.execute("DELETE FROM routed.run WHERE id = ANY (%s) RETURNING id", (ids,))
        assert cursor.rowcount == 4


# PostgreSQL copies into a view only if it has triggers
@trial(off="42809")
def psycopg2_copy(store):
    import io
    ids = both(store)
    with connect() as c, c.cursor() as cursor:
        cursor.copy_expert("COPY routed.run (id, n) FROM STDIN", io.StringIO("".join(f"{id}\t7\n" for id in ids)))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT id FROM routed.run WHERE n = 7 ORDER BY id) TO STDOUT", out)
        c.rollback()
    assert out.getvalue().split() == sorted(ids)


@trial()
def psycopg2_named_cursor(store):
    ids = both(store)
    with connect() as c:
        with c.cursor() as cursor:
            cursor.execute("INSERT INTO routed.run (id, note) SELECT unnest(%s), %s", (ids, ids[0]))
        with c.cursor(name="all") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT id FROM routed.run WHERE note = %s FOR UPDATE", (ids[0],))
            assert {id for id, in cursor} == set(ids)


def sqlstate(error):
    for e in (error, error.__cause__, getattr(error, "orig", None)):
        if getattr(e, "pgcode", None):
            return e.pgcode
    return None


for (function, expected), store in itertools.product(TRIALS, ("LEGACY", "NEW")):
    outcome = "works"
    try:
        function(store)
    except Exception as error:
        outcome = f"{sqlstate(error) or type(error).__name__} {error}"
    good = outcome.split()[0] == expected
    print(f"{'ok' if good else 'not ok'} - {function.__name__}, {store}" + ("" if good else f": {outcome}").replace("\n", " "))
