-- Back: every row comes home, and the application keeps its views.
DO $$
DECLARE
  finished boolean := false;
BEGIN
  WHILE NOT finished LOOP
    SELECT done INTO finished FROM run_ops.repatriate();
    COMMIT;
  END LOOP;
END $$;
SELECT run_ops.disable_split(repatriated => true);
SELECT count(*) AS payments, sum(cents) AS cents FROM public.payments;
SELECT count(*) AS orders, max(id) AS last FROM public.orders;
